"""How strong a sentence numbers bear: the one place that decides, for `best`, the race, recommendations and reports.

What was measured once per type says nothing about types; what was measured once at all says nothing about chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations
from statistics import fmean, stdev, variance

# A scorer's metric -> whether more of it is better.
METRICS = {"fidelity": True, "agreement": True, "bleeding": False, "drift": False}
TRAININGS, PICTURES = "training seeds", "image seeds"
# What would take more training seeds or images than so many is as good as equal.
MOST_PAIRS = 50
# Student's t, 97.5 %, for 1, 2, ... degrees of freedom; 1.96 for infinitely many.
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10,
         2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04)  # fmt: skip


class Strength(IntEnum):
    """What a difference says, from nothing to most."""

    UNKNOWN = 0  # it was measured once, or not at all: nothing is known about its uncertainty
    TIED = 1  # zero lies inside its 95 % interval
    FILES = 2  # told apart over images: so of these two files, not of the settings they were trained with
    TRAININGS = 3  # told apart over trainings with several seeds: so of the settings


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


def strength(found: Difference | None) -> Strength:
    """How strong a sentence a difference bears; None: it was not measured."""
    if found is None or found.interval is None:
        return Strength.UNKNOWN
    if not found.told_apart:
        return Strength.TIED
    return Strength.TRAININGS if found.over == TRAININGS else Strength.FILES


def pairs_to_tell(found: Difference, most: int = MOST_PAIRS) -> int | None:
    """How many pairs (training seeds or images) would tell this difference apart, did it stay as large as it seems.

    None where nothing is known about its uncertainty, and above `most`, where the two are as good as equal.
    """
    if found.error is None or not found.value:
        return None
    needed = math.ceil(found.count * (1.96 * found.error / abs(found.value)) ** 2)
    return max(needed, found.count + 1, 3) if needed <= most else None


def spread_of(tables: Sequence[Mapping[int, float]]) -> Spread | None:
    """What seeds do to differences among adapters, as in an analysis of variance with seeds as blocks.

    A table holds an adapter's values by seed. None where no two of them have two seeds in common.
    """
    tables = [table for table in tables if len(table) > 1]
    found = [
        variance([a[seed] - b[seed] for seed in seeds])
        for a, b in combinations(tables, 2)
        if len(seeds := a.keys() & b.keys()) > 1
    ]
    seeds = {seed for table in tables for seed in table}
    freedom = sum(map(len, tables)) - len(tables) - len(seeds) + 1
    return Spread(fmean(found), freedom) if found and freedom > 0 else None


def quantile(freedom: int) -> float:
    """Student's t at 97.5 %."""
    return T_975[freedom - 1] if freedom <= len(T_975) else 1.96


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def sum_error(samples: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard error of a sum of means, and the number of values of the smallest sample."""
    errors = [standard_error(values) for values in samples]
    count = min(map(len, samples))
    if any(error is None for error in errors):
        return None, max(count, 1)
    return math.sqrt(sum(error**2 for error in errors if error is not None)), count


def over_trainings(differences: Sequence[float], spread: Spread | None = None) -> Difference:
    """The mean of differences seed by seed, two or more; the seeds' own spread counts where it is the larger."""
    count = len(differences)
    value, error, freedom = fmean(differences), standard_error(differences), count - 1
    assert error is not None
    if spread is not None:
        pooled = math.sqrt(spread.variance / count)
        error, freedom = max(error, pooled), max(freedom, spread.freedom)
    return Difference(value, error, count, TRAININGS, quantile(freedom))


def over_pictures(value: float, samples: Sequence[Sequence[float]]) -> Difference:
    """A difference of two files; `samples` are its parts image by image, a sequence for each metric."""
    error, count = sum_error(samples)
    return Difference(value, error, count, PICTURES, math.inf if error is None else quantile(count - 1))


def interval(found: Difference, digits: int = 3) -> str:
    """A difference with its 95 % interval: "−0.021 ± 0.015"; "?" where nothing is known about it."""
    half = found.interval
    value = f"{found.value:+.{digits}f}".replace("-", "−")
    return f"{value} ± " + ("?" if half is None else f"{half:.{digits}f}")


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
