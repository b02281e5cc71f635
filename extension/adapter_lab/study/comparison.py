"""Differences between adapters of a study with their standard errors, and whether they can be told apart.

Where variants were trained with several equal seeds, differences are taken seed by seed: what a seed does to all of
them (data order, noise) cancels. With one training each, pictures of the same prompt and seed are compared instead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean, stdev, variance

from adapter_lab.study.results import Mean, Results, SavedPoint, VariantResult
from adapter_lab.study.scores import METRICS

LOSSES = {"validation_loss": False, "loss": False}
# Metric -> whether more of it is better.
BETTER = {**METRICS, **LOSSES}
TRAININGS, PICTURES = "training seeds", "picture seeds"
# Student's t, 97.5 %, for 1, 2, ... degrees of freedom; 1.96 for infinitely many.
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10,
         2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04)  # fmt: skip

Place = tuple[str, int]  # a variant's name and a saving point
Pictures = dict[tuple[int, str, int], float]  # (seed, concept, number) -> value; one entry for a loss


@dataclass(frozen=True)
class Term:
    """A metric's part in a sum: `factor` times its mean, of one concept or ("") of all."""

    metric: str
    factor: float = 1.0
    concept: str = ""


@dataclass(frozen=True)
class Difference:
    """One adapter minus another: mean, standard error over `count` pairs, and the error of interest's quantile.

    `error` is None where nothing can be said about it.
    """

    value: float
    error: float | None
    count: int
    over: str
    quantile: float

    @property
    def interval(self) -> float | None:
        """Half the width of the 95 % interval."""
        return None if self.error is None else self.quantile * self.error

    @property
    def told_apart(self) -> bool:
        """Whether zero lies outside the 95 % interval."""
        return self.interval is not None and abs(self.value) > self.interval


@dataclass(frozen=True)
class Spread:
    """The variance of seed-by-seed differences, pooled over pairs of several adapters, and its degrees of freedom."""

    variance: float
    freedom: int


def quantile(freedom: int) -> float:
    """Student's t at 97.5 %."""
    return T_975[freedom - 1] if freedom <= len(T_975) else 1.96


class Measured:
    """All values of a study by variant, saving point and training seed."""

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
        """Means over several saving points, kept as point 0, of trainings that have all of them.

        A picture of one prompt and seed counts once, however many points it was drawn at.
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
        """The sum of the terms over training seeds, or with one training over its pictures; None: not measured."""
        trainings = self.per_training(place, terms)
        if not trainings:
            return None
        if len(trainings) > 1:
            values = list(trainings.values())
            return Mean(fmean(values), standard_error(values), len(values), TRAININGS)
        (seed,) = trainings
        samples = [[v * term.factor for v in self.pictures(place, seed, term).values()] for term in terms]
        error, count = _sum_error(samples)
        return Mean(trainings[seed], error, count, PICTURES)

    def spread(self, places: Iterable[Place], terms: Sequence[Term]) -> Spread | None:
        """What seeds do to differences among adapters, as in an analysis of variance with seeds as blocks.

        None where no two of them have two seeds in common.
        """
        tables = [table for place in places if len(table := self.per_training(place, terms)) > 1]
        found = [
            variance([a[seed] - b[seed] for seed in seeds])
            for a, b in combinations(tables, 2)
            if len(seeds := a.keys() & b.keys()) > 1
        ]
        seeds = {seed for table in tables for seed in table}
        freedom = sum(map(len, tables)) - len(tables) - len(seeds) + 1
        return Spread(fmean(found), freedom) if found and freedom > 0 else None

    def picture_noise(self, places: Sequence[Place], metric: str) -> float | None:
        """The squared error that pictures give a mean, from differences of neighbouring places picture by picture.

        None where no two neighbours have two pictures in common.
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
            return _paired([first[seed] - second[seed] for seed in seeds], spread)
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
        error, count = _sum_error(samples)
        return Difference(value, error, count, PICTURES, math.inf if error is None else quantile(count - 1))


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def best_point(variant: VariantResult, values: Mapping[Place, Mean]) -> int | None:
    """The saving point with the highest value, among those that most of the variant's trainings reached."""
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


def _paired(differences: Sequence[float], spread: Spread | None) -> Difference:
    count = len(differences)
    value, error, freedom = fmean(differences), standard_error(differences), count - 1
    assert error is not None
    if spread is not None:
        pooled = math.sqrt(spread.variance / count)
        error, freedom = max(error, pooled), max(freedom, spread.freedom)
    return Difference(value, error, count, TRAININGS, quantile(freedom))


def _sum_error(samples: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard error of a sum of means, and the number of values of the smallest sample."""
    errors = [standard_error(values) for values in samples]
    count = min(map(len, samples))
    if any(error is None for error in errors):
        return None, max(count, 1)
    return math.sqrt(sum(error**2 for error in errors if error is not None)), count
