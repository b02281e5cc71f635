"""A study killed at any moment and resumed comes to what the uninterrupted one comes to."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter_lab.study.analysis.results import Results, Training, load
from adapter_lab.study.running.runner import run
from adapter_lab.training.dataset.index import file_digest
from tests.support import killed_studies
from tests.support.study_runs import LOKR, LORA, InProcess, tiny_study

MOMENTS = 5


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """An uninterrupted study, and copies of it that were killed at random moments."""
    root = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        first = tiny_study(root, LORA, LOKR, general__seeds=[1, 2], budget__amount=4.0, budget__points=2)
        copies = [root / f"copy-{index}" / "study" for index in range(MOMENTS)]
        for copy in copies:
            shutil.copytree(first, copy)
        [[_, called]] = run_and_kill([(first, 0)])
        chance = random.Random(5)
        moments = sorted(chance.randrange(1, int(called)) for _ in copies)
        ended = run_and_kill(list(zip(copies, moments)))
        assert ended == [["signal", "9"]] * MOMENTS
        yield first, dict(enumerate(copies))


def run_and_kill(pairs: list[tuple[Path, int]]) -> list[list[str]]:
    command = [sys.executable, killed_studies.__file__, *(str(part) for pair in pairs for part in pair)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def numbers(results: Results) -> list[Any]:
    """All that a report says, but for what a clock measured and where files are."""
    return [
        [
            (variant.variant.name, variant.state, variant.file_bytes),
            [of_training(training) for training in variant.trainings],
            [(p.point, p.amount, p.steps, p.images, p.loss, p.validation_loss) for p in variant.points],
        ]
        for variant in results.variants
    ]


def of_training(training: Training) -> list[Any]:
    return [
        (training.name, training.state, training.steps, training.images, training.final_loss),
        (training.curve.steps, training.curve.losses, training.curve.rates),
        [(p.step, p.images, p.loss, p.validation_loss, p.rates) for p in training.points],
        [file_digest(p.adapter) for p in training.points if p.adapter],
    ]


@pytest.mark.parametrize("index", range(MOMENTS))
def test_a_killed_study_comes_to_the_same_numbers(killed, index):
    whole, copies = killed
    state = run(copies[index], InProcess())
    assert state.finished
    expected = load(whole)
    assert [len(training.points) for variant in expected.variants for training in variant.trainings] == [2, 2, 2, 2]
    assert numbers(load(copies[index])) == numbers(expected)
