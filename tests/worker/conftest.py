"""Workers on a runs folder of their own, and patience."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_lab.config import TrainConfig
from adapter_lab.worker import RunSummary, Worker, process
from tests.support.training import draw_pictures, tiny_base

PATIENCE = 240.0


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s")


def wait_state(worker: Worker, run_id: str, *states: str) -> RunSummary:
    """The run's summary once it is in one of `states`."""

    def look() -> RunSummary | None:
        summary = worker.summary(run_id)
        return summary if summary.state in states else None

    return wait_for(look)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """An interpreter that runs the quick trainer, whatever it is told to run."""
    path = tmp_path / "quick-python"
    script = Path(__file__).with_name("quick_trainer.py")
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Settings that are complete."""
    config = TrainConfig()
    config.base.checkpoint = str(tiny_base("sd15"))
    config.dataset.folder = str(draw_pictures(tmp_path / "pictures", 2))
    config.run.steps = 5
    config.precision.device = "cpu"
    return config


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Makes workers on one root; at the end all of their runs are ended."""
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(Worker(tmp_path / "runs", **{"python": Path(sys.executable), **options}))
        return made[-1]

    yield make
    for worker in made:
        worker.close()
    for folder in [run.folder for run in made[0]._index.all()] if made else ():
        with contextlib.suppress(Exception):
            if process.is_alive(folder):
                process.kill(folder)


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc/self").exists()
