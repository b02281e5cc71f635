"""The quality of every adapter of a study as one number, its uncertainty, and the order of the variants by it.

Quality is a weighted sum of the measured metrics, each scaled from the worst (0) to the best (1) that the study saw;
fidelity counts half, the others share the other half, and each counts less where its differences are mostly noise.
Without scores, the validation loss decides, else the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from adapter_lab.study.comparison import BETTER, LOSSES, Difference, Measured, Place, Term, best_point
from adapter_lab.study.results import Mean, Results, VariantResult
from adapter_lab.study.scores import METRICS

FIDELITY_WEIGHT = 0.5
# A metric whose whole range is noise must not be blown up to the full scale: a scale has at least so many errors.
LEAST_SCALE = 5.0
# Among few adapters chance alone makes variance large: of two it must be so many times the noise more to count.
CHANCE = 6.0
# Relative costs within `SAME` are equal, and a saving below `SAVING` is none.
SAME, SAVING = 0.02, 0.10


@dataclass(frozen=True)
class Scale:
    """How a metric enters quality: `worst` is 0, `best` is 1, times `weight`."""

    metric: str
    worst: float
    best: float
    weight: float

    @property
    def term(self) -> Term:
        """Its part in the sum, but for a constant."""
        return Term(self.metric, self.weight / (self.best - self.worst))

    @property
    def offset(self) -> float:
        """The constant that is to be taken off."""
        return self.worst * self.term.factor


@dataclass(frozen=True)
class Ranked:
    """A variant at its best saving point: its quality, and how far it is from the best variant's.

    `costs` are those known of memory (bytes), file (bytes) and, unless all got equal time, seconds per step.
    """

    variant: str
    point: int
    step: float
    quality: Mean
    to_best: Difference | None  # None for the best itself
    costs: dict[str, float]

    @property
    def place(self) -> Place:
        """Variant and saving point."""
        return self.variant, self.point

    @property
    def tied(self) -> bool:
        """Whether it cannot be told apart from the best."""
        return self.to_best is None or not self.to_best.told_apart


@dataclass(frozen=True)
class Assessment:
    """The quality of all that was measured; `ranking` has every variant at its best saving point, the best first."""

    measured: Measured
    scales: list[Scale]
    quality: dict[Place, Mean]
    ranking: list[Ranked]

    @property
    def terms(self) -> list[Term]:
        """The sum that quality is, but for a constant."""
        return [scale.term for scale in self.scales]

    @property
    def metrics(self) -> list[str]:
        """What quality is made of."""
        return [scale.metric for scale in self.scales]

    def difference(self, a: Place, b: Place, among: Sequence[Place]) -> Difference | None:
        """Quality at `a` minus that at `b`, the spread over seeds being that among several places."""
        return self.measured.difference(a, b, self.terms, self.measured.spread(among, self.terms))


def assess(results: Results) -> Assessment | None:
    """The quality of everything a study has measured so far; None where it has measured nothing."""
    measured = Measured.of(results)
    scales = _scales(results, measured)
    if not scales:
        return None
    assessment = Assessment(measured, scales, _quality(results, measured, scales), [])
    return Assessment(measured, scales, assessment.quality, _ranking(results, assessment))


def saves(cheap: Ranked, dear: Ranked) -> dict[str, float]:
    """By how much `cheap` is below `dear` in each cost where it clearly is; empty if it is above in any."""
    both = {name: cheap.costs[name] / dear.costs[name] for name in cheap.costs if name in dear.costs}
    if any(ratio > 1 + SAME for ratio in both.values()):
        return {}
    return {name: 1 - ratio for name, ratio in both.items() if ratio < 1 - SAVING}


def cheapest_tied(ranking: Sequence[Ranked]) -> Ranked:
    """The best of those that cannot be told apart, without those that cost more than another one of them."""
    tied = [entry for entry in ranking if entry.tied]
    return next(entry for entry in tied if not any(saves(other, entry) for other in tied if other is not entry))


def base_quality(results: Results, scales: Sequence[Scale]) -> float | None:
    """Quality of the pictures without an adapter, whose drift is none; None where a metric is missing."""
    total = 0.0
    for scale in scales:
        mean = results.base.get((scale.metric, ""))
        if mean is None and scale.metric != "drift":
            return None
        total += scale.term.factor * (mean.value if mean else 0.0) - scale.offset
    return total


def _scales(results: Results, measured: Measured) -> list[Scale]:
    """The metrics that decide: all scores, else validation loss, else loss."""
    means = {
        metric: [mean for place in measured.places(metric) if (mean := measured.mean(place, [Term(metric)]))]
        for metric in BETTER
    }
    scored = [metric for metric in METRICS if means[metric]]
    metrics = scored or [metric for metric in LOSSES if means[metric]][:1]
    noise = {metric: _noise(measured, metric, means[metric]) for metric in metrics}
    weights = _weights({metric: _reliability(means[metric], noise[metric]) for metric in metrics})
    return [
        _scale(metric, means[metric], results.base.get((metric, "")), noise[metric], weight)
        for metric, weight in weights.items()
    ]


def _scale(metric: str, means: Sequence[Mean], base: Mean | None, noise: float, weight: float) -> Scale:
    values = [mean.value for mean in means] + ([base.value] if base else [])
    low, high = min(values), max(values)
    width = max(high - low, LEAST_SCALE * math.sqrt(noise)) or 1.0
    return Scale(metric, low, low + width, weight) if BETTER[metric] else Scale(metric, high, high - width, weight)


def _noise(measured: Measured, metric: str, means: Sequence[Mean]) -> float:
    """The squared standard error of an adapter's mean: that of trainings or of pictures, whichever is larger.

    What a seed or a prompt does to all of them alike does not count.
    """
    places = measured.places(metric)
    spread = measured.spread(places, [Term(metric)])
    trainings = spread.variance / 2 / max(mean.count for mean in means) if spread else None
    found = [noise for noise in (trainings, measured.picture_noise(places, metric)) if noise is not None]
    return max(found) if found else fmean((mean.error or 0.0) ** 2 for mean in means)


def _reliability(means: Sequence[Mean], noise: float) -> float:
    """The share of a metric's variance among adapters that is not noise, from 0 to 1; 0 where that may be chance."""
    if len(means) < 2:
        return 1.0
    found = variance([mean.value for mean in means])
    return max(0.0, 1 - (1 + CHANCE / (len(means) - 1)) * noise / found) if found else 0.0


def _weights(reliability: Mapping[str, float]) -> dict[str, float]:
    others = [metric for metric in reliability if metric != "fidelity"]
    weights = {metric: (1 - FIDELITY_WEIGHT) / len(others) for metric in others}
    if "fidelity" in reliability:
        weights = {"fidelity": FIDELITY_WEIGHT, **weights}
    known = {metric: weight * reliability[metric] for metric, weight in weights.items()}
    known = known if any(known.values()) else weights
    return {metric: weight / sum(known.values()) for metric, weight in known.items()}


def _quality(results: Results, measured: Measured, scales: Sequence[Scale]) -> dict[Place, Mean]:
    terms, offset = [scale.term for scale in scales], sum(scale.offset for scale in scales)
    places = [(variant.variant.name, point.point) for variant in results.variants for point in variant.points]
    found = {place: mean for place in places if (mean := measured.mean(place, terms))}
    return {place: Mean(mean.value - offset, mean.error, mean.count, mean.over) for place, mean in found.items()}


def _ranking(results: Results, assessment: Assessment) -> list[Ranked]:
    quality = assessment.quality
    points = {variant.variant.name: best_point(variant, quality) for variant in results.variants}
    places = [(name, point) for name, point in points.items() if point is not None]
    order = sorted(places, key=lambda place: -quality[place].value)
    ranking = []
    for place in order:
        variant = results.variant(place[0])
        summary = next(entry for entry in variant.points if entry.point == place[1])
        to_best = None if place == order[0] else assessment.difference(place, order[0], order)
        costs = _costs(variant, results.study.budget.unit)
        ranking.append(Ranked(*place, summary.steps, quality[place], to_best, costs))
    return ranking


def _costs(variant: VariantResult, unit: str) -> dict[str, float]:
    seconds = variant.seconds_per_step if unit != "minutes" else None
    costs = {"memory": variant.peak_bytes, "file": variant.file_bytes, "time": seconds and seconds.value}
    return {name: float(value) for name, value in costs.items() if value}
