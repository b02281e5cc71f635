"""What a study has come to so far: the one thing that the report, the command line and the tab read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from adapter_lab.study.record.state import (
    DONE,
    DROPPED,
    FAILED,
    QUEUED,
    RUNNING,
    SKIPPED,
    Decision,
    StudyState,
    TrainingState,
    load_state,
)
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.record.trainings import TrainingRecord, amount_of
from adapter_lab.study.scores.store import read_scores
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Study, Variant, run_name
from adapter_lab.study.spec.measured import Value
from adapter_lab.training.output.records import RECENT_STEPS

BASE = "base"  # the row of the base model without an adapter
ENDED = (DONE, FAILED, DROPPED, SKIPPED)


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error, over `count` things of a kind ("training seeds", "image seeds").

    `error` is None where there is only one.
    """

    value: float
    error: float | None = None
    count: int = 1
    over: str = "training seeds"


@dataclass(frozen=True)
class SavedPoint:
    """An adapter that one training saved, after `point` of the budget's shares (from 1).

    `amount` is in the budget's unit. `loss` is the mean since the point before; `rates` are the learning rates in
    effect by part. `adapter` is None where the file is gone. `values` are the scorers' measurements.
    """

    point: int
    amount: float
    step: int
    minutes: float
    images: int
    loss: float | None
    validation_loss: float | None
    rates: dict[str, float]
    adapter: Path | None
    file_bytes: int
    values: list[Value] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """A training step by step: loss and effective rate of the first part; validation as (step, minutes, loss)."""

    steps: list[int]
    minutes: list[float]
    losses: list[float]
    rates: list[float]
    validation: list[tuple[int, float, float]]


@dataclass(frozen=True)
class Training:
    """One variant trained with one seed.

    `state` is queued, running, done, failed, dropped or skipped, `why` a sentence about it. `peak_bytes` and
    `seconds_per_step` are None before the first step, `final_loss` is the mean over the last 50 steps. `busy`: when it
    trained, as (from, to) in seconds since 1970.
    """

    name: str
    variant: str
    seed: int
    folder: Path
    state: str
    why: str
    attempts: int
    steps: int
    minutes: float
    images: int
    seconds_per_step: float | None
    peak_bytes: int | None
    final_loss: float | None
    points: list[SavedPoint]
    curve: Curve
    busy: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class PointSummary:
    """A variant at one checkpoint, over its seeds; `scores` by (metric, concept), concept "" for all together."""

    point: int
    amount: float
    steps: float
    minutes: float
    images: float
    loss: Mean | None
    validation_loss: Mean | None
    scores: dict[tuple[str, str], Mean]


@dataclass(frozen=True)
class VariantResult:
    """A variant over all its seeds. Costs are means; `file_bytes` is that of its last file."""

    variant: Variant
    state: str
    why: str
    trainings: list[Training]
    points: list[PointSummary]
    seconds_per_step: Mean | None
    peak_bytes: int | None
    file_bytes: int | None
    predicted: dict[str, Any]  # what the plan predicted: trainable_parameters, file_bytes, peak_bytes
    notes: list[str]


@dataclass(frozen=True)
class Results:
    """Everything a study has come to; `base` are the scores of images without an adapter."""

    study: Study
    folder: Path
    variants: list[VariantResult]
    base: dict[tuple[str, str], Mean]
    decisions: list[Decision]
    state: str  # of the whole study: queued, running, done

    def variant(self, name: str) -> VariantResult:
        """The variant of that name; raises KeyError."""
        return next((entry for entry in self.variants if entry.variant.name == name), None) or _missing(name)


def _missing(name: str) -> VariantResult:
    raise KeyError(name)


def load(folder: Path) -> Results:
    """Read a study's folder; raises AdapterLabError where there is no study."""
    study_folder = StudyFolder(folder)
    file = study_folder.running if study_folder.running.exists() else study_folder.plan
    study, state = study_file.load(file), load_state(study_folder.state)
    variants = [_variant(study, study_folder, state, variant) for variant in study.variants]
    base = _scores(read_scores(study_folder.scores(BASE, 0)))
    return Results(study, folder, variants, base, state.decisions, _state_of([v.state for v in variants]))


def _variant(study: Study, folder: StudyFolder, state: StudyState, variant: Variant) -> VariantResult:
    trainings = [_training(study, folder, state, variant, seed) for seed in study.general.seeds]
    started = [training for training in trainings if training.seconds_per_step is not None]
    sizes = [training.points[-1].file_bytes for training in trainings if training.points]
    peaks = [training.peak_bytes for training in started if training.peak_bytes is not None]
    return VariantResult(
        variant=variant,
        state=_state_of([training.state for training in trainings]),
        why=" ".join(dict.fromkeys(training.why for training in trainings if training.why)),
        trainings=trainings,
        points=_summaries(trainings),
        seconds_per_step=mean([t.seconds_per_step for t in started if t.seconds_per_step is not None]),
        peak_bytes=max(peaks, default=None),
        file_bytes=sizes[-1] if sizes else None,
        predicted=state.predicted.get(variant.name, {}),
        notes=[],
    )


def _training(study: Study, folder: StudyFolder, state: StudyState, variant: Variant, seed: int) -> Training:
    name = run_name(variant, seed)
    record, known = TrainingRecord(folder.run(name)), state.runs.get(name, TrainingState())
    steps, end = record.steps, record.end or {}
    last = steps[-1]["step"] if steps else 0
    measured = [event["memory_bytes"] for event in steps]
    recent = [event["loss"] for event in steps[-RECENT_STEPS:]]
    return Training(
        name=name,
        variant=variant.name,
        seed=seed,
        folder=folder.run(name),
        state=known.state,
        why=known.why,
        attempts=known.attempts,
        steps=last,
        minutes=record.minutes[-1] if steps else 0.0,
        images=record.images(last),
        seconds_per_step=60 * record.minutes[-1] / len(steps) if steps else None,
        peak_bytes=end.get("peak_bytes") or max(measured, default=None),
        final_loss=fmean(recent) if recent else None,
        points=_points(study, folder, record, name),
        curve=_curve(record),
        busy=record.busy,
    )


def _points(study: Study, folder: StudyFolder, record: TrainingRecord, name: str) -> list[SavedPoint]:
    points, before, validation = [], 0, record.validation()
    for saved in record.saved:
        losses = record.losses_between(before, saved.step)
        before = saved.step
        points.append(
            SavedPoint(
                point=saved.point,
                amount=amount_of(study.budget, record, saved),
                step=saved.step,
                minutes=saved.seconds / 60,
                images=record.images(saved.step),
                loss=fmean(losses.values()) if losses else None,
                validation_loss=validation.get(saved.step),
                rates=record.rates(saved.step),
                adapter=saved.adapter,
                file_bytes=saved.file_bytes,
                values=read_scores(folder.scores(name, saved.step)),
            )
        )
    return points


def _curve(record: TrainingRecord) -> Curve:
    steps: list[int] = [event["step"] for event in record.steps]
    at = dict(zip(steps, record.minutes))
    parts: list[dict[str, float]] = [next(iter(event["rates"].values()), {}) for event in record.steps]
    rates = [part.get("lr", 0.0) for part in parts]
    validation = [(step, at.get(step, 0.0), loss) for step, loss in record.validation().items()]
    return Curve(steps, record.minutes, [event["loss"] for event in record.steps], rates, validation)


def _state_of(states: Sequence[str]) -> str:
    """The state of what consists of parts in these states."""
    if RUNNING in states or (QUEUED in states and any(state != QUEUED for state in states)):
        return RUNNING
    return next((state for state in (QUEUED, DONE, DROPPED, FAILED, SKIPPED) if state in states), QUEUED)


# Means over seeds


def _summaries(trainings: Sequence[Training]) -> list[PointSummary]:
    """Every checkpoint that at least one seed has reached."""
    reached: dict[int, list[SavedPoint]] = {}
    for training in trainings:
        for point in training.points:
            reached.setdefault(point.point, []).append(point)
    return [
        PointSummary(
            point=number,
            amount=fmean(point.amount for point in points),
            steps=fmean(point.step for point in points),
            minutes=fmean(point.minutes for point in points),
            images=fmean(point.images for point in points),
            loss=mean([point.loss for point in points if point.loss is not None]),
            validation_loss=mean([p.validation_loss for p in points if p.validation_loss is not None]),
            scores=_over_seeds([_scores(point.values) for point in points]),
        )
        for number, points in sorted(reached.items())
    ]


def mean(values: Sequence[float], over: str = "training seeds") -> Mean | None:
    """Mean and standard error; None without values."""
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(fmean(values), error, len(values), over)


Scores = dict[tuple[str, str], Mean]


def _scores(values: Sequence[Value]) -> Scores:
    """Means of one file's measurements over image seeds, by concept and, as concept "", over all."""
    groups: dict[tuple[str, str], list[float]] = {}
    for value in values:
        for concept in dict.fromkeys((value.concept, "")):
            groups.setdefault((value.metric, concept), []).append(value.value)
    found = {key: mean(entries, "image seeds") for key, entries in groups.items()}
    return {key: entry for key, entry in found.items() if entry is not None}


def _over_seeds(scores: Sequence[Scores]) -> Scores:
    """Means over training seeds; with one of them, those over image seeds."""
    if len(scores) == 1:
        return scores[0]
    keys = dict.fromkeys(key for entry in scores for key in entry)
    found = {key: mean([entry[key].value for entry in scores if key in entry]) for key in keys}
    return {key: entry for key, entry in found.items() if entry is not None}
