"""Processes: which one is meant, also by another program and later, and ending one with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Any

import psutil


def identity(process: psutil.Process) -> dict[str, float]:
    """What a process can be found again by, also by another program."""
    return {"pid": process.pid, "started": process.create_time()}


def living_process(claim: Any) -> psutil.Process | None:
    """The process that an `identity` is of, if it lives; another one with its old number does not count."""
    try:
        process = psutil.Process(int(claim["pid"]))
        same = abs(process.create_time() - claim["started"]) < 1
        # One that has ended but was not waited for yet still has its number.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (ValueError, KeyError, TypeError, OverflowError, psutil.Error):
        return None


def end_trees(processes: Iterable[psutil.Process], seconds: float = 0.0) -> list[psutil.Process]:
    """End processes at once with all they started; returns those that still live after so many seconds."""
    asked = list(processes)
    doomed = {member.pid: member for process in asked for member in _family(process)}
    for process in asked:
        _kill_group(process)
    for process in doomed.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(list(doomed.values()), seconds)
    return left


def _family(process: psutil.Process) -> Iterable[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return [process]


def _kill_group(process: psutil.Process) -> None:
    """End its process group, where that is its own (one started from a shell's script shares the script's)."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        if os.getsid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
