"""Differences between adapters and whether they can be told apart."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_lab.study.analysis.comparison import PICTURES, TRAININGS, Measured, Term, best_point, quantile
from adapter_lab.study.analysis.results import Training
from tests.support.study_results import Measure, make_results, replaced

FIDELITY = [Term("fidelity")]


def noisy(offsets: Mapping[str, float], of_seed: float = 0.0, of_picture: float = 0.05) -> Measure:
    """Fidelity of a variant: 0.5 and its offset, with what a training seed does to all, and noise of each image."""

    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        shared = random.Random(seed).gauss(0, of_seed)
        own = random.Random(f"{name}{point}{seed}{picture}").gauss(0, of_picture)
        return {"fidelity": 0.5 + offsets[name] + shared + own}

    return measure


def test_seeds_shift_all_variants_alike_and_cancel(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a", "b"], noisy({"a": 0.2, "b": 0.1}, of_seed=0.5))
    measured = Measured.of(results)
    found = measured.difference(("a", 1), ("b", 1), FIDELITY, measured.spread([("a", 1), ("b", 1)], FIDELITY))
    assert found is not None
    assert found.over == TRAININGS and found.count == 3
    assert found.value == pytest.approx(0.1, abs=0.05)
    mean = measured.mean(("a", 1), FIDELITY)
    assert mean is not None and mean.error is not None and found.error is not None
    assert found.error < mean.error / 3  # unpaired, nothing could be told apart


def test_the_error_of_a_pair_is_that_of_its_differences(tmp_path: Path) -> None:
    values = {"a": [1.0, 2.0, 6.0], "b": [0.0, 2.0, 4.0]}
    results = make_results(tmp_path, ["a", "b"], lambda name, _, seed, __: {"fidelity": values[name][seed - 1]})
    found = Measured.of(results).difference(("a", 1), ("b", 1), FIDELITY)
    assert found is not None
    assert found.value == pytest.approx(1.0)  # of 1, 0, 2
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert found.quantile == quantile(2) == 4.30
    assert not found.told_apart


def test_many_variants_make_few_seeds_say_more(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(8)]
    offsets = {name: 0.1 * (name == "v0") for name in names}
    results = make_results(tmp_path, names, noisy(offsets, of_picture=0.05), seeds=(1, 2))
    measured, places = Measured.of(results), [(name, 1) for name in names]
    spread = measured.spread(places, FIDELITY)
    assert spread is not None and spread.freedom == (8 - 1) * (2 - 1)
    alone = measured.difference(("v0", 1), ("v1", 1), FIDELITY)
    pooled = measured.difference(("v0", 1), ("v1", 1), FIDELITY, spread)
    assert alone is not None and pooled is not None
    assert alone.quantile == quantile(1) and pooled.quantile == quantile(7)
    assert pooled.told_apart


def test_pooled_variance_of_a_complete_table_is_that_of_an_analysis_of_variance(tmp_path: Path) -> None:
    table = {"a": [1.0, 2.0, 4.0], "b": [2.0, 2.5, 4.5], "c": [0.0, 3.0, 3.5]}
    results = make_results(tmp_path, list(table), lambda name, _, seed, __: {"fidelity": table[name][seed - 1]})
    rows, columns = len(table), 3
    grand = sum(map(sum, table.values())) / 9
    seed_means = [sum(row[i] for row in table.values()) / rows for i in range(columns)]
    residual = sum(
        (value - sum(row) / columns - seed_means[i] + grand) ** 2
        for row in table.values()
        for i, value in enumerate(row)
    ) / ((rows - 1) * (columns - 1))
    spread = Measured.of(results).spread([(name, 1) for name in table], FIDELITY)
    assert spread is not None
    assert spread.variance == pytest.approx(2 * residual)


def test_equal_variants_are_rarely_told_apart(tmp_path: Path) -> None:
    told = 0
    for trial in range(200):

        def measure(name: str, point: int, seed: int, picture: int, trial: int = trial) -> dict[str, float]:
            return {"fidelity": random.Random(f"{trial}{name}{seed}{picture}").gauss(0.5, 0.1)}

        results = make_results(tmp_path, ["a", "b", "c", "d"], measure, pictures=2, points=1)
        measured = Measured.of(results)
        spread = measured.spread([(name, 1) for name in "abcd"], FIDELITY)
        found = measured.difference(("a", 1), ("b", 1), FIDELITY, spread)
        told += found is not None and found.told_apart
    assert told / 200 < 0.08  # 5 % by construction, less as the larger error counts


def test_with_one_training_pictures_of_one_prompt_and_seed_are_compared(tmp_path: Path) -> None:
    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{picture}").gauss(0, 0.002)
        return {"fidelity": 0.1 * picture + (0.02 if name == "a" else 0.0) + noise}

    results = make_results(tmp_path, ["a", "b"], measure, seeds=(1,))
    found = Measured.of(results).difference(("a", 1), ("b", 1), FIDELITY)
    assert found is not None
    assert found.over == PICTURES and found.count == 8
    assert found.told_apart  # though images differ among themselves by 35 times that


def test_one_picture_says_nothing_about_its_error(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a", "b"], lambda name, *_: {"fidelity": 0.9 if name == "a" else 0.1},
                           seeds=(1,), pictures=1)  # fmt: skip
    found = Measured.of(results).difference(("a", 1), ("b", 1), FIDELITY)
    assert found is not None
    assert found.value == pytest.approx(0.8)
    assert found.error is None and found.interval is None and not found.told_apart


def test_what_was_not_measured_has_no_difference(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a", "b"], lambda name, *_: {"fidelity": 0.5} if name == "a" else {})
    measured = Measured.of(results)
    assert measured.difference(("a", 1), ("b", 1), FIDELITY) is None
    assert measured.difference(("a", 1), ("a", 9), FIDELITY) is None
    assert measured.mean(("b", 1), FIDELITY) is None
    assert measured.spread([("a", 1), ("b", 1)], FIDELITY) is None


def test_a_term_of_one_concept_counts_its_pictures_only(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a"], lambda _, __, ___, picture: {"fidelity": float(picture)}, pictures=2)
    assert Measured.of(results).mean(("a", 1), [Term("fidelity", 2.0)]).value == pytest.approx(1.0)  # type: ignore[union-attr]
    assert Measured.of(results).mean(("a", 1), [Term("fidelity", 2.0, "nobody")]) is None


def test_the_best_point_is_one_that_most_trainings_reached(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a"], lambda _, point, *__: {"fidelity": 0.1 * point})
    variant = results.variant("a")
    kept = [variant.trainings[0], *(_first_points(training, 2) for training in variant.trainings[1:])]
    results = replaced(results, "a", trainings=kept)
    measured = Measured.of(results)
    values = {("a", point): mean for point in (1, 2, 3) if (mean := measured.mean(("a", point), FIDELITY))}
    assert max(values, key=lambda place: values[place].value) == ("a", 3)
    assert best_point(results.variant("a"), values) == 2


def test_averaging_points_counts_a_picture_once(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a", "b"], lambda name, point, _, picture: {"fidelity": point + picture / 10},
                           seeds=(1,), pictures=4)  # fmt: skip
    averaged = Measured.of(results).averaged([2, 3])
    mean = averaged.mean(("a", 0), FIDELITY)
    assert mean is not None and mean.count == 4
    assert mean.value == pytest.approx(2.5 + 0.15)


def _first_points(training: Training, count: int) -> Training:
    return replace(training, points=training.points[:count])
