"""What a study is: variants of one training, the budget that all get, and how they race."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.option import option

# A table of more variants nobody reads, and every look at a study goes through all of its trainings.
MOST_VARIANTS, MOST_TRAININGS = 200, 1000
UNITS = ("minutes", "steps", "images")
# Settings that the study decides, so that neither variants nor the shared settings may.
DECIDED = (
    "run.name",
    "run.runs_folder",
    "run.steps",
    "run.epochs",
    "run.minutes",
    "run.seed",
    "save.every_steps",
    "save.every_epochs",
    "save.every_minutes",
    "save.keep_last",
)
# Settings that are the same for all variants, because a comparison across them would say nothing.
SHARED = ("base.", "dataset.folder", "dataset.sources", "dataset.regularisation_folder", "dataset.validation_fraction")
# Settings that change what a loss is measured on: losses of variants that differ in one of them say nothing together.
OF_LOSSES = ("loss.", "dataset.")
# The same for training losses, whose images and noise are those of the step.
OF_TRAINING_LOSSES = (*OF_LOSSES, "run.batch_size", "optimizer.gradient_accumulation")


@dataclass
class General:
    """The study as a whole."""

    name: str = option("study", "Name of the study, with which the names of its adapter files begin.")
    seeds: list[int] = option([1], "Every variant is trained once with each of these seeds.", minimum=0)
    threads: int = option(0, "CPU threads of each training; 0: all cores.", minimum=0)


@dataclass
class Budget:
    """What every variant gets, and after which shares of it adapters are saved."""

    unit: str = option(
        "minutes", "What is equal for all: training time, optimiser steps, or images seen.", choices=UNITS
    )
    amount: float = option(
        60.0, "How many minutes, steps or images each variant and seed gets.", minimum=0, maximum=1e9
    )
    points: int = option(8, "Adapters saved per training, after equal shares of the budget.", minimum=1, maximum=1000)
    parameters: int = option(
        0,
        "Also make all variants of one size: dims are solved for so many trained parameters; 0: dims as given.",
        minimum=0,
    )
    tolerance: float = option(
        0.05,
        "Largest relative difference from `parameters`; a variant that no dim brings as near is refused.",
        minimum=0,
        maximum=1,
        needs="budget.parameters",
    )

    def share(self, point: int) -> float:
        """Minutes, steps or images after the checkpoint `point`, counted from 1."""
        return self.amount * point / self.points

    def in_words(self, amount: float) -> str:
        """An amount of the budget's unit: "25 seconds", "1.25 minutes", "4,000 steps"."""
        if self.unit == "minutes" and amount < 1:
            return f"{60 * amount:.3g} seconds"
        number = f"{amount:,.2f}".rstrip("0").rstrip(".") if self.unit == "minutes" else f"{amount:,.0f}"
        return f"{number} {self.unit.rstrip('s') if amount == 1 else self.unit}"


@dataclass
class Race:
    """Successive halving (Li et al. 2020, ASHA): variants that are clearly behind stop early."""

    enabled: bool = option(False, "Stop variants that are behind, and give their budget to the others.")
    metric: str = option(
        "validation_loss",
        "What decides: validation_loss, loss (least is best), or a score: fidelity, agreement, bleeding, drift.",
    )
    confidence: float = option(
        2.0, "A variant is behind when it is worse than the best by this many standard errors.", minimum=0
    )
    first_point: int = option(1, "Checkpoint at which variants are first compared.", minimum=1)
    least: int = option(1, "Variants that are never dropped: the best so many.", minimum=1)
    longest: float = option(
        2.0, "A training gets at most this many times its own budget, however much is freed.", minimum=1
    )


@dataclass
class Variant:
    """A training that is compared: its name and the settings in which it differs, {"network.dim": 16}."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as part of file names."""
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", self.name).strip("-.") or "variant"


@dataclass
class Study:
    """Variants x seeds on one base and one folder of images, at equal budget.

    `shared` holds the settings that all variants start from. `scores`: settings of scorers by their name.
    """

    general: General = field(default_factory=General)
    budget: Budget = field(default_factory=Budget)
    race: Race = field(default_factory=Race)
    shared: TrainConfig = field(default_factory=TrainConfig)
    variants: list[Variant] = field(default_factory=list)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def too_large(self) -> str:
        """What is said of a study that has more variants or trainings than may be; else ""."""
        trainings = len(self.variants) * len(self.general.seeds)
        if len(self.variants) <= MOST_VARIANTS and trainings <= MOST_TRAININGS:
            return ""
        return (
            f"A study has at most {MOST_VARIANTS} variants and {MOST_TRAININGS} trainings, and this one has "
            f"{len(self.variants)} and {trainings}: leave out variants or seeds."
        )

    @property
    def name(self) -> str:
        """The study's name."""
        return self.general.name

    def differing(self, prefixes: tuple[str, ...]) -> list[str]:
        """The settings with one of these beginnings in which its variants differ."""
        paths = sorted({path for variant in self.variants for path in variant.settings if path.startswith(prefixes)})

        def shared(path: str) -> Any:
            section, name = path.split(".")
            return getattr(getattr(self.shared, section), name)

        return [path for path in paths if len({repr(v.settings.get(path, shared(path))) for v in self.variants}) > 1]


def run_name(variant: Variant, seed: int) -> str:
    """Name of the run folder of one training of a study."""
    return f"{variant.slug}-s{seed}"
