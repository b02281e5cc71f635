"""From a study to its trainings: a configuration for every variant and seed, and what each will come to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapter_lab import config_file
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.config import TrainConfig
from adapter_lab.config_file import raise_all
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.study.planning.sizes import of_size, parameters_of
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec.checks import check, settings_of
from adapter_lab.study.spec.definition import Budget, Study, Variant, run_name
from adapter_lab.training.bases import open_base
from adapter_lab.training.bases.base import Base
from adapter_lab.training.dataset import scan
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.training.output.metadata import without_places
from adapter_lab.upgrades import FORMER, as_written, hash_of
from adapter_lab.validation import validate

# Where a training computes does not make it another one.
PLACES = ("device", "gradient_checkpointing", "phased_loading")


@dataclass(frozen=True)
class PlannedRun:
    """One training of a study: a variant with one seed."""

    name: str  # of its run folder
    variant: Variant
    seed: int
    config: TrainConfig

    @property
    def fingerprint(self) -> str:
        """Changes when the training becomes another one, but not when files or folders are moved.

        Settings at their default are left out, so that a release with further ones has the same.
        """
        tables = {
            section: {name: value for name, value in table.items() if value != defaults[name]}
            for section, table in self._tables().items()
            for defaults in [asdict(getattr(TrainConfig(), section))]
        }
        return hash_of(tables)[:16]

    def is_as_begun(self, fingerprint: str) -> bool:
        """Whether a training that was begun with this fingerprint, by this or an older release, is this one."""
        older = (
            hash_of({section: as_written(section, table, number) for section, table in self._tables().items()})[:16]
            for number in (1, 2)
        )
        return fingerprint == self.fingerprint or fingerprint in older

    def _tables(self) -> dict[str, dict[str, Any]]:
        tables = asdict(without_places(self.config))
        for name in PLACES:
            del tables["precision"][name]
        return tables


@dataclass(frozen=True)
class Prediction:
    """What one variant will come to; `peak_bytes` is None where memory was not asked for."""

    trainable_parameters: int
    file_bytes: int
    peak_bytes: int | None


def plan(study: Study, folder: Path) -> list[PlannedRun]:
    """Every training of a study whose folder is `folder`: all variants with the first seed, then with the next.

    Raises ConfigError with everything that is wrong, by variant.
    """
    check(study)
    study = as_begun(study, folder)
    base = open_base(study.shared.base)
    table = targets(base.shapes)
    problems: list[str] = []
    configs: dict[str, TrainConfig] = {}
    for variant in study.variants:
        try:
            configs[variant.name] = _config(study, variant, base, table)
        except AdapterLabError as error:
            problems.append(f"Variant {variant.name}: {error}")
    raise_all("The study", problems)
    return [
        _planned(study, variant, seed, configs[variant.name], folder)
        for seed in study.general.seeds
        for variant in study.variants
    ]


def as_begun(study: Study, folder: Path) -> Study:
    """The study with the former defaults that its trainings in `folder` were begun with, where it leaves these open.

    A study's file holds what differs from the defaults, so a release with other defaults would make it another study.
    """
    begun = [config_file.load(path) for path in sorted(StudyFolder(folder).runs.glob("*/config.toml"))]
    shared = copy.deepcopy(study.shared)
    for path, (former, _) in FORMER.items():
        section, name = path.split(".")
        open_here = getattr(getattr(shared, section), name) == getattr(getattr(TrainConfig(), section), name)
        if open_here and any(getattr(getattr(config, section), name) == former for config in begun):
            setattr(getattr(shared, section), name, former)
    return replace(study, shared=shared)


def predict(config: TrainConfig, device: str, memory: bool = True) -> Prediction:
    """What a planned training will come to on a kind of device: "cpu", "cuda" or "mps"."""
    config = copy.deepcopy(config)
    config.precision.device = device
    found = estimate(config, memory)
    return Prediction(found.trainable_parameters, found.file_bytes, found.peak_bytes)


def saving_interval(budget: Budget, images_per_step: float = 0.0) -> float:
    """Minutes or steps between checkpoints; `images_per_step` is needed for a budget of images.

    Images are turned into whole steps, so that a checkpoint lies within half a step per point of its share.
    """
    if budget.unit == "minutes":
        return budget.amount / budget.points
    if budget.unit == "images":
        return max(1, round(budget.amount / budget.points / images_per_step))
    return budget.amount / budget.points


# Configurations


def _config(study: Study, variant: Variant, base: Base, table: Mapping[str, Target]) -> TrainConfig:
    """A variant's settings with its share of the budget, for any seed."""
    config = settings_of(study, variant)
    if study.budget.parameters:
        config = _of_size(config, table, study.budget)
    _set_budget(config, study.budget, base)
    validate(config)
    return config


def _of_size(config: TrainConfig, table: Mapping[str, Target], budget: Budget) -> TrainConfig:
    sized = of_size(config, table, budget.parameters)
    parameters = parameters_of(sized, table)
    difference = abs(parameters / budget.parameters - 1)
    if difference > budget.tolerance:
        raise ConfigError(
            f"its nearest size is {parameters:,} parameters, {difference:.0%} off budget.parameters "
            f"{budget.parameters:,}; choose another number, raise budget.tolerance, or leave this variant out."
        )
    return sized


def _set_budget(config: TrainConfig, budget: Budget, base: Base) -> None:
    run, save = config.run, config.save
    if budget.unit == "minutes":
        run.minutes, save.every_minutes = budget.amount, saving_interval(budget)
        return
    save.every_steps = int(saving_interval(budget, _images_per_step(config, base) if budget.unit == "images" else 0.0))
    run.steps = save.every_steps * budget.points


def _images_per_step(config: TrainConfig, base: Base) -> float:
    dataset = scan(config.dataset, config.dataset.resolution or base.resolution)
    report = dataset.report(config.run.batch_size, config.optimizer.gradient_accumulation)
    return report.uses_per_epoch / report.steps_per_epoch


def _planned(study: Study, variant: Variant, seed: int, config: TrainConfig, folder: Path) -> PlannedRun:
    config = copy.deepcopy(config)
    name = run_name(variant, seed)
    config.run = replace(
        config.run,
        name=f"{study.name}-{name}",
        seed=seed,
        output_folder=config.run.output_folder or str(StudyFolder(folder.resolve()).adapters),
    )
    return PlannedRun(name, variant, seed, config)
