"""Whom a race drops: what is behind beyond chance over trainings, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab.comparing.evidence import spread_of
from adapter_lab.study.analysis.race import compare, decide, is_beyond
from adapter_lab.study.spec.definition import General, Race, Study, Variant
from adapter_lab.study.spec.race_checks import remarks

STEPS = range(1, 21)


def losses(level: float, *, seed: int, noise: float = 0.5, steps: range = STEPS) -> dict[int, float]:
    """Training losses: what a step's noise gives, alike for all of one seed, and the variant's own level."""
    return {step: level + noise * ((step * 7919 + seed * 104729) % 13) / 13 for step in steps}


def trainings(level: float, seeds: tuple[int, ...] = (1, 2, 3)) -> dict[int, dict[int, float]]:
    return {seed: losses(level + 0.001 * seed, seed=seed) for seed in seeds}


def test_what_steps_share_cancels_and_what_is_behind_shows() -> None:
    behind = compare(trainings(0.2), trainings(0.1), 1.0)
    assert behind is not None and behind.value == pytest.approx(0.1)
    assert is_beyond(behind, 2.0)
    ahead = compare(trainings(0.1), trainings(0.2), 1.0)
    assert ahead is not None and not is_beyond(ahead, 2.0)


def test_steps_that_the_other_has_not_are_never_compared() -> None:
    """At equal minutes one got to step 20, the other to step 10; the steps after differ only by their noise."""
    slow = {seed: losses(0.1, seed=seed, steps=range(1, 11)) for seed in (1, 2, 3)}
    fast = {seed: losses(0.1, seed=seed) for seed in (1, 2, 3)}
    found = compare(slow, fast, 1.0)
    assert found is not None and found.value == pytest.approx(0.0, abs=1e-12)
    later = {seed: losses(0.1, seed=seed, steps=range(11, 21)) for seed in (1, 2, 3)}
    assert compare(slow, later, 1.0) is None


def test_one_seed_bears_nothing() -> None:
    assert compare(trainings(0.9, (1,)), trainings(0.1, (1,)), 1.0) is None


def test_many_variants_make_two_seeds_say_more() -> None:
    others = [{1: 0.10, 2: 0.11}, {1: 0.11, 2: 0.12}, {1: 0.12, 2: 0.128}, {1: 0.2, 2: 0.212}]
    spread = spread_of(others)
    samples = [{seed: {"": value} for seed, value in table.items()} for table in others]
    alone, pooled = (compare(samples[3], samples[0], 1.0, known) for known in (None, spread))
    assert alone is not None and pooled is not None
    assert pooled.quantile < alone.quantile and is_beyond(pooled, 2.0)


@pytest.mark.parametrize(
    ("seeds", "metric", "settings", "words"),
    [
        ([1], "loss", {}, "with one training each"),
        ([1], "fidelity", {}, "with one training each"),
        ([1, 2], "loss", {"run.batch_size": 4}, "differ in run.batch_size"),
        ([1, 2], "validation_loss", {"loss.type": "huber"}, "differ in loss.type"),
        ([1, 2], "validation_loss", {"run.batch_size": 4}, ""),
        ([1, 2], "fidelity", {"loss.type": "huber"}, ""),
        ([1, 2], "loss", {"network.dim": 4}, ""),
    ],
)
def test_a_race_that_can_drop_nothing_says_why(
    tmp_path: Path, seeds: list[int], metric: str, settings: dict[str, object], words: str
) -> None:
    study = Study(General("made", seeds), race=Race(enabled=True, metric=metric))
    study.variants = [Variant("a", {}), Variant("b", dict(settings))]
    found = remarks(study)
    assert any(words in sentence for sentence in found) if words else found == []
    if words:
        from adapter_lab.study.record.study_folder import StudyFolder

        assert decide(study, StudyFolder(tmp_path), study.variants, 1) == []
