"""The race: at each saving point, variants that are behind the best beyond the uncertainty stop.

Successive halving as in ASHA (Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar: A System for
Massively Parallel Hyperparameter Tuning, MLSys 2020), but instead of a fixed share those variants are dropped that are
clearly behind, and what they would have used goes to the others, as further saving points of the same length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from adapter_lab.study.definition import Race, Study, Variant, run_name
from adapter_lab.study.folder import StudyFolder
from adapter_lab.study.scores import METRICS
from adapter_lab.study.scores.store import read_scores
from adapter_lab.study.state import Decision
from adapter_lab.study.trainings import TrainingRecord

# Measurements by what makes them comparable one by one: a training seed, a step, or a picture's seed and concept.
Sample = Mapping[Any, float]


@dataclass(frozen=True)
class Lag:
    """How far a variant is behind the best: difference and its standard error (None: unknown)."""

    difference: float
    error: float | None

    def is_beyond(self, confidence: float) -> bool:
        """Whether it is behind by more than `confidence` standard errors."""
        return self.error is not None and self.difference > confidence * self.error


def problems(study: Study) -> list[str]:
    """What keeps a race from being decided, as sentences."""
    race, several = study.race, len(study.general.seeds) > 1
    if not race.enabled:
        return []
    known = ("loss", "validation_loss", *METRICS)
    if race.metric not in known:
        return [f"race.metric is {race.metric!r}, but must be one of {', '.join(known)}."]
    if race.metric == "validation_loss" and not study.shared.dataset.validation_fraction:
        return ["race.metric is validation_loss, which needs dataset.validation_fraction above 0."]
    if race.metric == "validation_loss" and not several:
        return [
            "race.metric is validation_loss, whose uncertainty is unknown with one seed: add study.seeds, or choose "
            "loss or a score."
        ]
    if race.metric in METRICS and not study.scores:
        return [f"race.metric is {race.metric}, but no scorer is set up: add a section [scores.NAME]."]
    if study.shared.optimizer.schedule != "constant":
        return [
            f"optimizer.schedule is {study.shared.optimizer.schedule}, which depends on when training ends; a race "
            "changes that: choose constant, or race.enabled = false."
        ]
    return []


def last_point(study: Study, variants: int, dropped: Mapping[str, int]) -> int:
    """The saving point at which the trainings of variants that are still in the race end.

    `variants` started, those `dropped` ended at the points given; what they left is shared out evenly.
    """
    left = variants * study.budget.points - sum(dropped.values())
    remaining = max(1, variants - len(dropped))
    return max(study.budget.points, min(left // remaining, math.floor(study.race.longest * study.budget.points)))


def decide(study: Study, folder: StudyFolder, variants: Sequence[Variant], point: int) -> list[Decision]:
    """Which of `variants`, all of which have reached `point`, are dropped there."""
    race = study.race
    samples = {variant.name: sample(study, folder, variant, point) for variant in variants}
    samples = {name: values for name, values in samples.items() if values}
    if point < race.first_point or len(samples) <= race.least:
        return []
    sign = -1.0 if METRICS.get(race.metric, False) else 1.0
    order = sorted(samples, key=lambda name: sign * fmean(samples[name].values()))
    best, decisions = order[0], []
    for name in reversed(order[race.least :]):
        lag = compare(samples[name], samples[best], sign)
        if lag.is_beyond(race.confidence):
            decisions.append(Decision(name, point, round(time.time(), 3), _why(race, name, best, samples, lag)))
    return decisions


def sample(study: Study, folder: StudyFolder, variant: Variant, point: int) -> Sample:
    """A variant's measurements of the race's metric at a saving point."""
    by_seed = {seed: _of_training(study, folder, run_name(variant, seed), point) for seed in study.general.seeds}
    if len(by_seed) > 1:
        return {seed: fmean(values.values()) for seed, values in by_seed.items() if values}
    return next(iter(by_seed.values()))


def _of_training(study: Study, folder: StudyFolder, name: str, point: int) -> Sample:
    record = TrainingRecord(folder.run(name))
    steps = {saved.point: saved.step for saved in record.saved}
    if point not in steps:
        return {}
    step = steps[point]
    if study.race.metric == "loss":
        return record.losses_between(steps.get(point - 1, 0), step)
    if study.race.metric == "validation_loss":
        return {"": record.validation()[step]} if step in record.validation() else {}
    values = [value for value in read_scores(folder.scores(name, step)) if value.metric == study.race.metric]
    return {(value.concept, value.seed, index): value.value for index, value in enumerate(values)}


def compare(other: Sample, best: Sample, sign: float) -> Lag:
    """How far `other` is behind `best`; sign 1: less is better, -1: more is.

    Measurements of the same things are compared one by one, since what they share (data, noise) then cancels.
    """
    difference = sign * (fmean(other.values()) - fmean(best.values()))
    if set(other) == set(best):
        pairs = [other[key] - best[key] for key in other]
        return Lag(difference, _error(pairs))
    errors = [_error(list(values.values())) for values in (other, best)]
    known = [error for error in errors if error is not None]
    return Lag(difference, math.hypot(*known) if len(known) == 2 else None)


def _error(values: Sequence[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _why(race: Race, name: str, best: str, samples: Mapping[str, Sample], lag: Lag) -> str:
    mine, theirs = fmean(samples[name].values()), fmean(samples[best].values())
    assert lag.error is not None
    return (
        f"{race.metric} {mine:.4g} against {theirs:.4g} of {best}: behind by {lag.difference:.2g}, which is "
        f"{lag.difference / lag.error:.1f} standard errors."
        if lag.error
        else f"{race.metric} {mine:.4g} against {theirs:.4g} of {best}, without any spread."
    )
