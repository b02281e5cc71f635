"""The race: at each checkpoint, variants that are behind the best beyond the uncertainty stop.

Successive halving as in ASHA (Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar: A System for
Massively Parallel Hyperparameter Tuning, MLSys 2020), but instead of a fixed share those variants are dropped that are
clearly behind, and what they would have used goes to the others, as further checkpoints of the same length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from adapter_lab.comparing.evidence import (
    METRICS,
    Difference,
    Spread,
    Strength,
    interval,
    over_trainings,
    spread_of,
    strength,
)
from adapter_lab.study.record.state import Decision
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.record.trainings import TrainingRecord
from adapter_lab.study.scores.store import read_scores
from adapter_lab.study.spec.definition import Race, Study, Variant, run_name
from adapter_lab.study.spec.race_checks import remarks

# A training's measurements by what makes them comparable one by one: a step, or an image's seed and concept.
Sample = Mapping[Any, float]


def last_point(study: Study, variants: int, dropped: Mapping[str, int]) -> int:
    """The checkpoint at which the trainings of variants that are still in the race end.

    `variants` started, those `dropped` ended at the points given; what they left is shared out evenly.
    """
    left = variants * study.budget.points - sum(dropped.values())
    remaining = max(1, variants - len(dropped))
    return max(study.budget.points, min(left // remaining, math.floor(study.race.longest * study.budget.points)))


def decide(study: Study, folder: StudyFolder, variants: Sequence[Variant], point: int) -> list[Decision]:
    """Which of `variants`, all of which have reached `point`, are dropped there."""
    race = study.race
    samples = {variant.name: sample(study, folder, variant, point) for variant in variants}
    samples = {name: trainings for name, trainings in samples.items() if trainings}
    if point < race.first_point or len(samples) <= race.least or remarks(study):
        return []
    sign = -1.0 if METRICS.get(race.metric, False) else 1.0
    means = {name: fmean(map(_mean, trainings.values())) for name, trainings in samples.items()}
    order = sorted(means, key=lambda name: sign * means[name])
    best, decisions = order[0], []
    spread = spread_of([{seed: _mean(found) for seed, found in trainings.items()} for trainings in samples.values()])
    for name in reversed(order[race.least :]):
        behind = compare(samples[name], samples[best], sign, spread)
        if behind is not None and is_beyond(behind, race.confidence):
            decisions.append(Decision(name, point, round(time.time(), 3), _why(race, name, best, means, behind)))
    return decisions


def sample(study: Study, folder: StudyFolder, variant: Variant, point: int) -> dict[int, Sample]:
    """A variant's measurements of the race's metric at a checkpoint, by training seed."""
    found = {seed: _of_training(study, folder, run_name(variant, seed), point) for seed in study.general.seeds}
    return {seed: values for seed, values in found.items() if values}


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


def compare(
    other: Mapping[int, Sample], best: Mapping[int, Sample], sign: float, spread: Spread | None = None
) -> Difference | None:
    """How far `other` is behind `best`, seed by seed; sign 1: less is better, -1: more is. None: fewer than two seeds.

    Within a seed only measurements of the same things count (steps, images), since what they share (data, noise)
    then cancels, and what they do not share is never compared.
    """
    differences = []
    for seed in sorted(other.keys() & best.keys()):
        shared = other[seed].keys() & best[seed].keys()
        if shared:
            differences.append(sign * fmean(other[seed][key] - best[seed][key] for key in shared))
    return over_trainings(differences, spread) if len(differences) > 1 else None


def is_beyond(behind: Difference, confidence: float) -> bool:
    """Whether a variant is behind by more than chance and by more than `confidence` standard errors."""
    assert behind.error is not None
    return strength(behind) == Strength.TRAININGS and behind.value > confidence * behind.error


def _mean(values: Sample) -> float:
    return fmean(values.values())


def _why(race: Race, name: str, best: str, means: Mapping[str, float], behind: Difference) -> str:
    text = f"{race.metric} {means[name]:.4g} against {means[best]:.4g} of {best}"
    if not behind.error:
        return f"{text}, without any spread."
    return f"{text}: behind by {interval(behind)}, which is {behind.value / behind.error:.1f} standard errors."
