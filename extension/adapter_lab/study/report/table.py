"""The table of a study: per type its costs, losses and scores at the step to use, and per checkpoint for CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from adapter_lab.comparing.evidence import METRICS
from adapter_lab.study.analysis.recommend import Recommendation
from adapter_lab.study.analysis.results import Mean, PointSummary, Results, VariantResult
from adapter_lab.study.analysis.sentences import plus_minus

MIB = 2**20


@dataclass(frozen=True)
class Row:
    """A variant with all that its row is made of; `point` is its best checkpoint, None if it has none."""

    result: VariantResult
    point: PointSummary | None
    quality: Mean | None
    reference: float | None  # seconds per step of the variant that others are compared with


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, and a row's text."""

    head: str
    meaning: str
    text: Callable[[Row], str]


def rows(results: Results, recommendation: Recommendation) -> list[Row]:
    """One row per variant in the study's order."""
    best = {entry.variant: entry.point for entry in recommendation.ranking}
    reference = reference_variant(results)
    speed = reference.seconds_per_step.value if reference and reference.seconds_per_step else None
    found = []
    for variant in results.variants:
        name = variant.variant.name
        point = next((p for p in variant.points if p.point == best.get(name)), None)
        quality = recommendation.quality.get((name, best[name])) if name in best else None
        found.append(Row(variant, point, quality, speed))
    return found


def reference_variant(results: Results) -> VariantResult | None:
    """The variant that speeds are given relative to: the first LoRA that was trained, else the first variant."""
    trained = [variant for variant in results.variants if variant.seconds_per_step]
    algorithm = results.study.shared.network.algo
    loras = [v for v in trained if v.variant.settings.get("network.algo", algorithm) == "lora"]
    return next(iter(loras or trained), None)


def columns(results: Results) -> list[Column]:
    """The columns that this study has something to put into."""
    reference = reference_variant(results)
    name = reference.variant.name if reference else "LoRA"
    metrics = [m for m in METRICS if any((m, "") in p.scores for v in results.variants for p in v.points)]
    fixed = [
        Column("Type", "The variant.", lambda row: row.result.variant.name),
        Column("State", "done, or why not.", lambda row: row.result.state),
        Column("s/it", "Seconds per optimiser step.", lambda row: _mean(row.result.seconds_per_step, 3)),
        Column(f"× {name}", f"Seconds per step relative to {name}.", _relative),
        Column("peak MiB", "Peak memory of training.", lambda row: _mib(row.result.peak_bytes, 0)),
        Column("file MiB", "Size of its last adapter file.", lambda row: _mib(row.result.file_bytes, 2)),
        Column("parameters", "Trained numbers.", lambda row: _count(row.result.predicted.get("trainable_parameters"))),
        Column("steps", "Optimiser steps at its last checkpoint.", _last(lambda last: _count(last.steps))),
        Column("minutes", "Training time then.", _last(lambda last: f"{last.minutes:.1f}")),
        Column("images", "Images seen then.", _last(lambda last: _count(last.images))),
        Column("final loss", "Mean loss of the last 50 steps.", _final_loss),
        Column("val. loss", "Validation loss at its last point.", _last(lambda last: _mean(last.validation_loss, 4))),
        Column("rate", "Effective learning rate of the first part at the end.", _rate),
        Column("best step", "Where its quality is highest.", lambda row: _count(row.point.steps) if row.point else "–"),
        Column("quality", "All scores together, from 0 (worst seen) to 1 (best).", lambda row: plus_minus(row.quality)),
    ]
    return [*fixed, *(Column(metric, f"{metric} at the best step.", _score(metric)) for metric in metrics)]


def _last(text: Callable[[PointSummary], str]) -> Callable[[Row], str]:
    """A text about a variant's last checkpoint."""
    return lambda row: text(row.result.points[-1]) if row.result.points else "–"


def _score(metric: str) -> Callable[[Row], str]:
    return lambda row: plus_minus(row.point.scores.get((metric, ""))) if row.point else "–"


def _relative(row: Row) -> str:
    speed = row.result.seconds_per_step
    return f"{speed.value / row.reference:.2f}" if speed and row.reference else "–"


def _final_loss(row: Row) -> str:
    losses = [training.final_loss for training in row.result.trainings if training.final_loss is not None]
    return f"{fmean(losses):.4f}" if losses else "–"


def _rate(row: Row) -> str:
    rates = [training.curve.rates[-1] for training in row.result.trainings if training.curve.rates]
    return f"{fmean(rates):.2e}" if rates else "–"


def _mean(mean: Mean | None, digits: int) -> str:
    return f"{mean.value:.{digits}f}" if mean else "–"


def _mib(size: int | None, digits: int) -> str:
    return f"{size / MIB:,.{digits}f}" if size else "–"


def _count(value: Any) -> str:
    return f"{value:,.0f}" if value is not None else "–"


def markdown(results: Results, recommendation: Recommendation) -> str:
    """The table as Markdown."""
    heads, entries = columns(results), rows(results, recommendation)
    lines = [[column.head for column in heads], ["---", *["---:"] * (len(heads) - 1)]]
    lines += [[column.text(row).replace("|", "\\|") for column in heads] for row in entries]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_csv(results: Results, recommendation: Recommendation) -> str:
    """A line per variant and checkpoint, and one for each variant without any; numbers unrounded."""
    metrics = sorted({key for v in results.variants for p in v.points for key in p.scores})
    best = {(entry.variant, entry.point) for entry in recommendation.ranking}
    chosen = (recommendation.variant, recommendation.point)
    lines: list[dict[str, Any]] = []
    for variant in results.variants:
        costs = {
            "variant": variant.variant.name,
            "state": variant.state,
            "why": variant.why,
            "trainings": len(variant.trainings),
            "seconds_per_step": variant.seconds_per_step and variant.seconds_per_step.value,
            "peak_bytes": variant.peak_bytes,
            "file_bytes": variant.file_bytes,
            "trainable_parameters": variant.predicted.get("trainable_parameters"),
        }
        points: list[PointSummary | None] = [*variant.points] or [None]
        for point in points:
            place = (variant.variant.name, point.point if point else 0)
            quality = _both("quality", recommendation.quality.get(place))
            marks = {"best_of_variant": int(place in best), "recommended": int(place == chosen)}
            lines.append({**costs, **_point(point, metrics), **quality, **marks})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["variant"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """A cell that no table program takes for a formula: a text that begins like one gets an apostrophe before it."""
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value


def _point(point: PointSummary | None, metrics: list[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: getattr(point, name, None) for name in ("point", "amount", "steps", "minutes", "images")
    }
    values |= _both("loss", point.loss if point else None)
    values |= _both("validation_loss", point.validation_loss if point else None)
    for metric, concept in metrics:
        name = f"{metric} {concept}".strip()
        values |= _both(name, point.scores.get((metric, concept)) if point else None)
    return values


def _both(name: str, mean: Mean | None) -> dict[str, Any]:
    return {name: mean and mean.value, f"{name} error": mean and mean.error}
