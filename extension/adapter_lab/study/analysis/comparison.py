"""Differences between adapters of a study with their standard errors, and whether they can be told apart.

Where variants were trained with several equal seeds, differences are taken seed by seed: what a seed does to all of
them (data order, noise) cancels. With one training each, images of the same prompt and seed are compared instead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

from adapter_lab.comparing.evidence import (
    METRICS,
    PICTURES,
    TRAININGS,
    Difference,
    Spread,
    over_pictures,
    over_trainings,
    quantile,
    spread_of,
    standard_error,
    sum_error,
)
from adapter_lab.study.analysis.results import Mean, Results, SavedPoint, VariantResult

LOSSES = {"validation_loss": False, "loss": False}
# Metric -> whether more of it is better.
BETTER = {**METRICS, **LOSSES}

Place = tuple[str, int]  # a variant's name and a checkpoint
Pictures = dict[tuple[int, str, int], float]  # (seed, concept, number) -> value; one entry for a loss


@dataclass(frozen=True)
class Term:
    """A metric's part in a sum: `factor` times its mean, of one concept or ("") of all."""

    metric: str
    factor: float = 1.0
    concept: str = ""


class Measured:
    """All values of a study by variant, checkpoint and training seed."""

    def __init__(self, pictures: Mapping[Place, dict[int, dict[str, Pictures]]]) -> None:
        self._pictures = dict(pictures)

    @classmethod
    def of(cls, results: Results) -> Measured:
        """What a study has measured so far."""
        pictures: dict[Place, dict[int, dict[str, Pictures]]] = {}
        for variant in results.variants:
            for training in variant.trainings:
                for point in training.points:
                    place = (variant.variant.name, point.point)
                    pictures.setdefault(place, {})[training.seed] = _by_metric(point)
        return cls(pictures)

    def averaged(self, points: Sequence[int]) -> Measured:
        """Means over several checkpoints, kept as point 0, of trainings that have all of them.

        An image of one prompt and seed counts once, however many points it was drawn at.
        """
        pictures: dict[Place, dict[int, dict[str, Pictures]]] = {}
        for name in {name for name, _ in self._pictures}:
            found = [self._pictures.get((name, point), {}) for point in points]
            seeds = set(found[0]).intersection(*found[1:])
            pictures[name, 0] = {seed: _averaged([entry[seed] for entry in found]) for seed in sorted(seeds)}
        return Measured(pictures)

    def places(self, metric: str) -> list[Place]:
        """Where a metric was measured."""
        return [place for place, seeds in self._pictures.items() if any(metric in found for found in seeds.values())]

    def pictures(self, place: Place, seed: int, term: Term) -> Pictures:
        """A training's values of one metric; empty where it was not measured."""
        found = self._pictures.get(place, {}).get(seed, {}).get(term.metric, {})
        return found if not term.concept else {key: value for key, value in found.items() if key[1] == term.concept}

    def per_training(self, place: Place, terms: Sequence[Term]) -> dict[int, float]:
        """The sum of the terms by training seed, for trainings that have all of them."""
        sums = {}
        for seed in self._pictures.get(place, {}):
            values = [self.pictures(place, seed, term) for term in terms]
            if all(values):
                sums[seed] = sum(term.factor * fmean(found.values()) for term, found in zip(terms, values, strict=True))
        return sums

    def mean(self, place: Place, terms: Sequence[Term]) -> Mean | None:
        """The sum of the terms over training seeds, or with one training over its images; None: not measured."""
        trainings = self.per_training(place, terms)
        if not trainings:
            return None
        if len(trainings) > 1:
            values = list(trainings.values())
            return Mean(fmean(values), standard_error(values), len(values), TRAININGS)
        (seed,) = trainings
        samples = [[v * term.factor for v in self.pictures(place, seed, term).values()] for term in terms]
        error, count = sum_error(samples)
        return Mean(trainings[seed], error, count, PICTURES)

    def spread(self, places: Iterable[Place], terms: Sequence[Term]) -> Spread | None:
        """What seeds do to differences among adapters, as in an analysis of variance with seeds as blocks.

        None where no two of them have two seeds in common.
        """
        return spread_of([self.per_training(place, terms) for place in places])

    def picture_noise(self, places: Sequence[Place], metric: str) -> float | None:
        """The squared error that images give a mean, from differences of neighbouring places image by image.

        None where no two neighbours have two images in common.
        """
        tables = [self._blocks(place, metric) for place in places]
        found = [
            variance([a[key] - b[key] for key in keys]) / 2 / len(keys)
            for a, b in pairwise(tables)
            if len(keys := a.keys() & b.keys()) > 1
        ]
        return fmean(found) if found else None

    def _blocks(self, place: Place, metric: str) -> dict[tuple[int, tuple[int, str, int]], float]:
        return {
            (seed, key): value
            for seed in self._pictures.get(place, {})
            for key, value in self.pictures(place, seed, Term(metric)).items()
        }

    def difference(self, a: Place, b: Place, terms: Sequence[Term], spread: Spread | None = None) -> Difference | None:
        """The sum of the terms at `a` minus that at `b`; None where one of them was not measured.

        `spread` makes few seeds say more; the seeds' own spread counts where it is larger.
        """
        first, second = self.per_training(a, terms), self.per_training(b, terms)
        if not first or not second:
            return None
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) > 1:
            return over_trainings([first[seed] - second[seed] for seed in seeds], spread)
        if seeds:
            return self._over_pictures(a, b, seeds[0], terms)
        value = fmean(first.values()) - fmean(second.values())
        errors = [standard_error(list(table.values())) for table in (first, second)]
        if errors[0] is None or errors[1] is None:
            return Difference(value, None, 1, TRAININGS, math.inf)
        freedom = len(first) + len(second) - 2
        return Difference(value, math.hypot(errors[0], errors[1]), min(len(first), len(second)), TRAININGS,
                          quantile(freedom))  # fmt: skip

    def _over_pictures(self, a: Place, b: Place, seed: int, terms: Sequence[Term]) -> Difference:
        value, samples = 0.0, []
        for term in terms:
            first, second = self.pictures(a, seed, term), self.pictures(b, seed, term)
            pairs = [term.factor * (first[key] - second[key]) for key in first if key in second]
            value += term.factor * (fmean(first.values()) - fmean(second.values())) if not pairs else fmean(pairs)
            samples.append(pairs)
        return over_pictures(value, samples)


def best_point(variant: VariantResult, values: Mapping[Place, Mean]) -> int | None:
    """The checkpoint with the highest value, among those that most of the variant's trainings reached."""
    name = variant.variant.name
    points = [(point.point, values[name, point.point]) for point in variant.points if (name, point.point) in values]
    if not points:
        return None
    trainings = {point.point: _trainings_at(variant, point.point) for point in variant.points}
    most = max(trainings[point] for point, _ in points)
    return max((entry for entry in points if trainings[entry[0]] == most), key=lambda entry: entry[1].value)[0]


def _trainings_at(variant: VariantResult, point: int) -> int:
    return sum(any(saved.point == point for saved in training.points) for training in variant.trainings)


def _by_metric(point: SavedPoint) -> dict[str, Pictures]:
    metrics: dict[str, Pictures] = defaultdict(dict)
    numbers: dict[tuple[str, int, str], int] = defaultdict(int)
    for value in point.values:
        key = (value.metric, value.seed, value.concept)
        metrics[value.metric][value.seed, value.concept, numbers[key]] = value.value
        numbers[key] += 1
    for name, loss in (("loss", point.loss), ("validation_loss", point.validation_loss)):
        if loss is not None:
            metrics[name][0, "", 0] = loss
    return dict(metrics)


def _averaged(points: Sequence[dict[str, Pictures]]) -> dict[str, Pictures]:
    return {
        metric: {key: fmean(values) for key in first if len(values := [p[metric][key] for p in points if
                 key in p.get(metric, {})]) == len(points)}
        for metric, first in points[0].items()
    }  # fmt: skip
