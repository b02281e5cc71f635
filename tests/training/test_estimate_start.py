"""How Prodigy begins follows from the budget, is in the run's log as a number, and what it comes to is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.cli import main
from adapter_lab.config import TrainConfig
from adapter_lab.training.loop import resume, train
from tests.support.training import events_of, tiny_config


def prodigy(folder: Path, **changes: Any) -> TrainConfig:
    changes = {"optimizer__name": "prodigy", "optimizer__lr": "auto", **changes}
    return tiny_config(folder, **changes)


def started(folder: Path) -> list[dict[str, Any]]:
    names = ("growth_rate", "d0", "d_coef")
    return [{name: event[name] for name in names} for event in events_of(folder, "training")]


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ({"run__steps": 2}, (0.0, 1e-4, 2.0)),
        ({"run__steps": 0, "run__epochs": 1}, (0.0, 1e-4, 2.0)),
        ({"run__steps": 2, "optimizer__growth_rate": 1.01, "optimizer__d_coef": 0.7}, (1.01, 1e-4, 0.7)),
        ({"run__steps": 8000, "run__minutes": 1e-4}, (0.0, 1e-4, 1.0)),
        ({"run__steps": 2, "optimizer__d0": 1e-6}, (0.0, 1e-6, 2.0)),
    ],
)
def test_the_log_says_what_auto_came_to(tmp_path: Path, changes: dict[str, Any], used: tuple[float, ...]) -> None:
    train(prodigy(tmp_path, **changes), tmp_path / "run")
    assert [tuple(found.values()) for found in started(tmp_path / "run")] == [used]


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path: Path) -> None:
    train(prodigy(tmp_path, run__steps=2), tmp_path / "run")
    resume(tmp_path / "run", {"run.steps": 8000, "run.minutes": 1e-4})
    first, second = started(tmp_path / "run")
    assert first == second == {"growth_rate": 0.0, "d0": 1e-4, "d_coef": 2.0}


def test_an_estimate_that_was_held_is_said_at_the_end_on_the_console_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prodigy(tmp_path, run__steps=25, optimizer__growth_rate=1.01, optimizer__d0=1e-6)
    config_file.write(config, tmp_path / "held.toml")
    assert main(["train", "--config", str(tmp_path / "held.toml"), "--run-folder", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    (sentence,) = events_of(tmp_path / "run", "finished")[0]["findings"]
    assert sentence.startswith(
        "Prodigy's estimate d for unet was held by its limit, 1.01 per step: it is about 1e-06 at step 25"
    )
    assert f"Warning: {sentence}" in said.out
    # ... and it had been said before the first step.
    before = "optimizer.growth_rate 1.01 lets Prodigy's estimate d come to about 1e-06 at most in 25 steps"
    assert before in said.out and any(before in event["message"] for event in events_of(tmp_path / "run", "warning"))
