"""The charts of a study: losses and scores over minutes and steps, and fidelity against drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean

from adapter_lab.comparing.evidence import METRICS
from adapter_lab.study.analysis.comparison import BETTER
from adapter_lab.study.analysis.recommend import Recommendation
from adapter_lab.study.analysis.results import Mean, PointSummary, Results, Training, VariantResult
from adapter_lab.study.analysis.sentences import WORDS
from adapter_lab.study.report.svg import Chart, Series

BINS = 60  # a step's loss says mostly what its timesteps were; means over this many shares of the training do not
AXES = {"minutes": "minutes of training", "steps": "optimiser steps"}


def loss_charts(results: Results) -> list[Chart]:
    """Training loss, validation loss and effective rate over minutes and over steps."""
    charts = []
    for axis, label in AXES.items():
        lines = _lines(results, lambda training, axis=axis: (getattr(training.curve, axis), training.curve.losses))  # type: ignore[misc]
        charts.append(Chart("Training loss", label, "loss (mean of a sixtieth)", lines))
    for axis, label in AXES.items():
        charts.append(_over(results, axis, label, "Validation loss", "validation loss", lambda p: p.validation_loss))
    rates = _lines(results, lambda training: (training.curve.steps, training.curve.rates))
    charts.append(Chart("Effective learning rate", AXES["steps"], "rate of the first part", rates, logarithmic=True))
    return [chart for chart in charts if any(len(series.xs) for series in chart.series)]


def score_charts(results: Results, recommendation: Recommendation) -> list[Chart]:
    """Quality and every score over minutes and over steps, with the value of images without an adapter."""
    charts = []
    scored = [m for m in METRICS if any((m, "") in p.scores for v in results.variants for p in v.points)]
    if scored:
        for axis, label in AXES.items():
            charts.append(_quality_chart(results, recommendation, axis, label))
    for metric in scored:
        better = "more is better" if BETTER[metric] else "less is better"
        base = results.base.get((metric, ""))
        for axis, label in AXES.items():
            charts.append(
                _over(
                    results,
                    axis,
                    label,
                    f"{metric[0].upper()}{metric[1:]}: {WORDS[metric]}",
                    f"{metric} ({better})",
                    lambda point, metric=metric: point.scores.get((metric, "")),  # type: ignore[misc]
                    ("without an adapter", base.value) if base else None,
                )
            )
    return charts


def concept_charts(results: Results) -> list[Chart]:
    """Each score of each concept over steps, for metrics with more than one."""
    keys = sorted({key for v in results.variants for p in v.points for key in p.scores if key[1]})
    several = [key for key in keys if sum(key[0] == other[0] for other in keys) > 1]
    return [
        _over(
            results,
            "steps",
            AXES["steps"],
            f"{metric[0].upper()}{metric[1:]}: {concept}",
            metric,
            lambda point, key=(metric, concept): point.scores.get(key),  # type: ignore[misc]
            ("without an adapter", base.value) if (base := results.base.get((metric, concept))) else None,
        )
        for metric, concept in several
    ]


def pareto_chart(results: Results) -> Chart | None:
    """Fidelity against drift at every checkpoint, the last with its name; None where one of them is missing."""
    series = []
    for index, variant in enumerate(results.variants):
        found = [(p, p.scores.get(("drift", "")), p.scores.get(("fidelity", ""))) for p in variant.points]
        both = [(point, drift, fidelity) for point, drift, fidelity in found if drift and fidelity]
        if both:
            name = variant.variant.name
            series.append(
                Series(
                    name,
                    index,
                    [drift.value for _, drift, _ in both],
                    [fidelity.value for *_, fidelity in both],
                    [fidelity.error for *_, fidelity in both],
                    [drift.error for _, drift, _ in both],
                    [f"{name}, step {p.steps:,.0f}: fidelity {f.value:.3f}, drift {d.value:.3f}" for p, d, f in both],
                )
            )
    if not series:
        return None
    base = results.base.get(("fidelity", ""))
    level = ("fidelity without an adapter", base.value) if base else None
    note = (
        "Up and left is better: likeness without changing what the images were not trained on. A line is a training, "
        "from its first checkpoint to its last; bars are standard errors."
    )
    x, y = "drift (less is better)", "fidelity (more is better)"
    return Chart("Fidelity against drift", x, y, series, level=level, note=note)


def _quality_chart(results: Results, recommendation: Recommendation, axis: str, label: str) -> Chart:
    series = []
    for index, variant in enumerate(results.variants):
        found = [(p, recommendation.quality.get((variant.variant.name, p.point))) for p in variant.points]
        series.append(_point_series(variant, index, axis, [(point, mean) for point, mean in found if mean]))
    return Chart("Quality: all scores together", label, "quality (0 worst, 1 best seen)", series)


def _over(
    results: Results,
    axis: str,
    label: str,
    title: str,
    y: str,
    value: Callable[[PointSummary], Mean | None],
    level: tuple[str, float] | None = None,
) -> Chart:
    """A value at checkpoints over minutes or steps, all variants."""
    series = []
    for index, variant in enumerate(results.variants):
        found = [(point, mean) for point in variant.points if (mean := value(point))]
        series.append(_point_series(variant, index, axis, found))
    return Chart(title, label, y, series, level=level)


def _point_series(variant: VariantResult, number: int, axis: str, found: Sequence[tuple[PointSummary, Mean]]) -> Series:
    return Series(
        variant.variant.name,
        number,
        [getattr(point, axis) for point, _ in found],
        [mean.value for _, mean in found],
        [mean.error for _, mean in found],
    )


def _lines(results: Results, curve: Callable[[Training], tuple[Sequence[float], Sequence[float]]]) -> list[Series]:
    """Binned curves, averaged over a variant's trainings."""
    series = []
    for index, variant in enumerate(results.variants):
        binned = [_binned(*curve(training)) for training in variant.trainings if len(curve(training)[0]) > 1]
        points = [_average(points) for points in zip(*binned)]  # as many as the shortest has
        series.append(
            Series(variant.variant.name, index, [x for x, _ in points], [y for _, y in points], markers=False)
        )
    return series


def _binned(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    count = min(BINS, len(xs))
    edges = [round(index * len(xs) / count) for index in range(count + 1)]
    return [(fmean(xs[a:b]), fmean(ys[a:b])) for a, b in pairwise(edges)]


def _average(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = zip(*points)
    return fmean(xs), fmean(ys)
