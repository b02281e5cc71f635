"""The quality of every adapter of a study as one number, its uncertainty, and the order of the variants by it.

Quality is a weighted sum of the measured metrics, each scaled from the worst (0) to the best (1) that the study saw;
fidelity counts half, the others share the other half, and each counts less where its differences are mostly noise.
Without scores, the validation loss decides. Training losses never do: each step's is of other images and other noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

from adapter_lab.comparing.evidence import METRICS, Difference, Strength, over_trainings, strength
from adapter_lab.study.analysis.comparison import BETTER, Measured, Place, Term, best_point
from adapter_lab.study.analysis.results import Mean, Results, VariantResult
from adapter_lab.study.spec.definition import OF_LOSSES

VALIDATION = "validation_loss"
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
    """A variant at its best checkpoint: its quality, and how far it is from the best variant's.

    `costs` are those known of memory and file, in bytes. `seconds` are those of a step by training seed; empty where
    all got equal time, and where trainings ran at the same moment, so that each slowed the other.
    """

    variant: str
    point: int
    step: float
    quality: Mean
    to_best: Difference | None  # None for the best itself
    costs: dict[str, float]
    seconds: dict[int, float]

    @property
    def place(self) -> Place:
        """Variant and checkpoint."""
        return self.variant, self.point

    @property
    def strength(self) -> Strength:
        """How strong a sentence its distance to the best bears."""
        return strength(self.to_best)

    @property
    def tied(self) -> bool:
        """Whether its type cannot be told apart from that of the best, which takes trainings with several seeds."""
        return self.strength < Strength.TRAININGS


@dataclass(frozen=True)
class Assessment:
    """The quality of all that was measured; `ranking` has every variant at its best checkpoint, the best first."""

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
    if time := _time_ratio(cheap, dear):
        both["time"] = time
    if any(ratio > 1 + SAME for ratio in both.values()):
        return {}
    return {name: 1 - ratio for name, ratio in both.items() if ratio < 1 - SAVING}


def _time_ratio(cheap: Ranked, dear: Ranked) -> float | None:
    """How their training times compare; None where that is not known beyond what seeds do to it."""
    seeds = sorted(cheap.seconds.keys() & dear.seconds.keys())
    if len(seeds) < 2:
        return None
    found = over_trainings([math.log(cheap.seconds[seed] / dear.seconds[seed]) for seed in seeds])
    return math.exp(found.value) if strength(found) == Strength.TRAININGS else None


def cheapest_tied(ranking: Sequence[Ranked]) -> Ranked:
    """The best of those whose files cannot be told apart, without those that cost more than another one of them."""
    tied = [entry for entry in ranking if entry.strength < Strength.FILES]
    return next(entry for entry in tied if not any(saves(other, entry) for other in tied if other is not entry))


def base_quality(results: Results, scales: Sequence[Scale]) -> float | None:
    """Quality of the images without an adapter, whose drift is none; None where a metric is missing."""
    total = 0.0
    for scale in scales:
        mean = results.base.get((scale.metric, ""))
        if mean is None and scale.metric != "drift":
            return None
        total += scale.term.factor * (mean.value if mean else 0.0) - scale.offset
    return total


def _scales(results: Results, measured: Measured) -> list[Scale]:
    """The metrics that decide: all scores, else the validation loss where all measure it on the same."""
    means = {
        metric: [mean for place in measured.places(metric) if (mean := measured.mean(place, [Term(metric)]))]
        for metric in (*METRICS, VALIDATION)
    }
    metrics = [metric for metric in METRICS if means[metric]]
    if not metrics and means[VALIDATION] and not results.study.differing(OF_LOSSES):
        metrics = [VALIDATION]
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
    """The squared standard error of an adapter's mean: that of trainings or of images, whichever is larger.

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
    quality, alone = assessment.quality, results.study.budget.unit != "minutes" and not _trained_at_once(results)
    points = {variant.variant.name: best_point(variant, quality) for variant in results.variants}
    places = [(name, point) for name, point in points.items() if point is not None]
    order = sorted(places, key=lambda place: -quality[place].value)
    ranking = []
    for place in order:
        variant = results.variant(place[0])
        summary = next(entry for entry in variant.points if entry.point == place[1])
        to_best = None if place == order[0] else assessment.difference(place, order[0], order)
        seconds = {t.seed: t.seconds_per_step for t in variant.trainings if t.seconds_per_step and alone}
        ranking.append(Ranked(*place, summary.steps, quality[place], to_best, _costs(variant), seconds))
    return ranking


def _costs(variant: VariantResult) -> dict[str, float]:
    costs = {"memory": variant.peak_bytes, "file": variant.file_bytes}
    return {name: float(value) for name, value in costs.items() if value}


def _trained_at_once(results: Results) -> bool:
    """Whether two trainings of the study ever ran at the same moment."""
    spans = sorted(span for variant in results.variants for training in variant.trainings for span in training.busy)
    return any(begin < end for (_, end), (begin, _) in pairwise(spans))
