"""Drawing and scoring all adapters of a study; what was done before with the same file is not done again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from adapter_lab import files
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.study.analysis.results import BASE, Results, load
from adapter_lab.study.pictures.drawing import Drawer
from adapter_lab.study.pictures.store import drawn_pictures, picture_name, write_index
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.scores import Context, Scorer
from adapter_lab.study.scores.embeddings import embedding_scorer
from adapter_lab.study.scores.settings import PICTURES, PictureSettings, picture_settings
from adapter_lab.study.scores.store import kept_scores, write_scores
from adapter_lab.study.scores.tagger import tagger_scorer
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value
from adapter_lab.training.bases import open_base
from adapter_lab.training.dataset.index import file_digest

# A scorer's name, its section of the study, and what images there are, to the scorer.
Factory = Callable[[str, Mapping[str, Any], PictureSettings], Scorer]
SCORERS: dict[str, Factory] = {"clip": embedding_scorer, "dino": embedding_scorer, "tagger": tagger_scorer}
HOW = ("steps", "guidance", "width", "height", "negative")


def open_scorers(study: Study, known: Mapping[str, Factory] | None = None) -> list[Scorer]:
    """The scorers a study has set up, of ours and those in `known`.

    Raises ConfigError for one that does not exist, for wrong settings, and for a metric that two would measure.
    """
    factories, pictures = {**SCORERS, **(known or {})}, picture_settings(study)
    scorers = []
    for name, table in study.scores.items():
        if name == PICTURES:
            continue
        if name not in factories:
            raise ConfigError(f"There is no scorer {name!r}; choose among {', '.join(sorted(factories))}.")
        scorers.append(factories[name](name, table, pictures))
    measured = Counter(metric for scorer in scorers for metric in scorer.metrics)
    for metric, count in measured.items():
        if count > 1:
            names = " and ".join(f"scores.{scorer.name}" for scorer in scorers if metric in scorer.metrics)
            raise ConfigError(f"{names} both measure {metric}, on different scales: take it out of one's metrics.")
    return scorers


def score_study(
    folder: Path, known: Mapping[str, Factory] | None = None, say: Callable[[str], None] | None = None
) -> list[str]:
    """Score every adapter that a study has saved and that has no scores yet; returns what could not be scored and why.

    Raises AdapterLabError where there is no study, and ConfigError for scorers that cannot be used at all.
    """
    results = load(folder)
    scorers = open_scorers(results.study, known)
    if not scorers:
        return []
    scoring, failures = Scoring(results.study, folder, scorers), []
    files = list(_files(results))
    for number, (name, step, adapter) in enumerate(files, start=1):
        try:
            values = scoring.measure(name, step, adapter)
        except ConfigError:
            raise
        except AdapterLabError as error:
            if adapter is None:
                raise
            failures.append(f"{name}, step {step}: {error}")
            continue
        if say is not None:
            say(f"{number} of {len(files)}: {name}, step {step}: {_summary(values)}")
    return failures


class Scoring:
    """Measures adapter files of one study; the base is loaded when the first image has to be drawn."""

    def __init__(self, study: Study, folder: Path, scorers: Sequence[Scorer]) -> None:
        self.study, self.folder, self.scorers = study, StudyFolder(folder), scorers
        self.config = drawing_config(study)
        prompts = {scorer.name: scorer.prompts(study) for scorer in scorers}
        self._wanted = prompts
        self.prompts = list(dict.fromkeys(prompt for wanted in prompts.values() for prompt in wanted))

    @cached_property
    def drawer(self) -> Drawer:
        """Draws the images."""
        return Drawer(self.config)

    @cached_property
    def _how(self) -> dict[str, Any]:
        """What images depend on beside adapter and prompts."""
        preview = {key: value for key, value in asdict(self.config.preview).items() if key in HOW}
        return {
            "base": open_base(self.config.base).content_key,
            "frozen": self.config.network.frozen_adapters,
            "mixed": self.config.precision.mixed,
            "resolution": self.config.dataset.resolution,
            **preview,
        }

    def measure(self, name: str, step: int, adapter: Path | None) -> list[Value]:
        """All scorers' values of one file, `adapter` None being the base without one; drawn and scored where needed."""
        made_from = {"adapter": _digest(adapter) if adapter else "", **self._how}
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        path, values = self.folder.scores(name, step), []
        for scorer in self.scorers:
            found = kept_scores(path, digest, scorer.name, scorer.settings)
            if found is None:
                pictures = self._pictures(name, step, adapter, made_from)
                wanted = [pictures[prompt] for prompt in self._wanted[scorer.name]]
                found = scorer.score(wanted, Context(self.study, self.folder.path, self._base_of(adapter)))
                write_scores(path, digest, scorer.name, scorer.settings, found)
            values += found
        return values

    def _pictures(
        self, name: str, step: int, adapter: Path | None, made_from: Mapping[str, Any]
    ) -> dict[ScorePrompt, Picture]:
        folder = self.folder.pictures(name, step)
        pictures = drawn_pictures(folder, made_from, self.prompts)
        if pictures is None:
            folder.mkdir(parents=True, exist_ok=True)
            wanted = [(prompt.text, prompt.seed) for prompt in self.prompts]
            drawn = self.drawer.draw(wanted, [(adapter, 1.0)] if adapter else [])
            for number, (prompt, picture) in enumerate(zip(self.prompts, drawn, strict=True)):
                with files.replacing(folder / picture_name(number, prompt), sync=False) as file:
                    picture.save(file, format="PNG")
            pictures = write_index(folder, made_from, self.prompts)
        return {picture.prompt: picture for picture in pictures}

    def _base_of(self, adapter: Path | None) -> dict[ScorePrompt, Path]:
        if adapter is None:
            return {}
        return {prompt: picture.path for prompt, picture in self._base_pictures.items()}

    @cached_property
    def _base_pictures(self) -> dict[ScorePrompt, Picture]:
        return self._pictures(BASE, 0, None, {"adapter": "", **self._how})


def drawing_config(study: Study) -> TrainConfig:
    """The study's shared settings with what [scores.pictures] says about drawing."""
    config, pictures = deepcopy(study.shared), picture_settings(study)
    for name in HOW:
        value = getattr(pictures, name)
        if value:
            setattr(config.preview, name, value)
    return config


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise AdapterLabError(f"{path} cannot be read: {error.strerror}.") from error


def _files(results: Results) -> Iterator[tuple[str, int, Path | None]]:
    """The base, and every adapter file that is there: run name, step, file."""
    yield BASE, 0, None
    for variant in results.variants:
        for training in variant.trainings:
            for point in training.points:
                if point.adapter is not None:
                    yield training.name, point.step, point.adapter


def _summary(values: Sequence[Value]) -> str:
    sums: dict[str, list[float]] = {}
    for value in values:
        sums.setdefault(value.metric, []).append(value.value)
    return (
        ", ".join(f"{metric} {sum(found) / len(found):.3f}" for metric, found in sums.items()) or "nothing to measure"
    )
