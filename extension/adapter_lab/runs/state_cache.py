"""What was read of a run's log, kept beside it: the next program reads on from there, not from the start.

The log stays the only truth. What is kept counts while the log begins and goes on as it did when it was read, so a log
that was written again, and one that was cut, are read from their start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from adapter_lab import files
from adapter_lab.runs.state import RunState

FILE = "events.read.npz"
VERSION = 2  # to be raised when a RunState comes to something else from the same events
LEAST_BYTES = 1 << 17  # of log, below which reading it all again takes a few milliseconds
COMPARED_BYTES = 4096


def worth_keeping(offset: int, kept: int) -> bool:
    """Whether a log read up to `offset` has grown enough since it was kept at `kept`."""
    return offset - kept > max(LEAST_BYTES, offset // 8)


def keep(log: Path, state: RunState, offset: int) -> None:
    """Keep what was read of `log` up to `offset`; where the folder cannot be written to, nothing is kept."""
    series, rest = state.series, {name: value for name, value in vars(state).items() if name != "series"}
    plain = {name: list(value) if isinstance(value, deque) else value for name, value in rest.items()}
    head = {"version": VERSION, "offset": offset, "log": _fingerprint(log, offset), "columns": list(series.columns)}
    path = log.with_name(FILE)
    with contextlib.suppress(OSError), files.replacing(path, sync=False) as file:
        np.savez(
            file,
            head=np.frombuffer(json.dumps({**head, "state": plain}).encode(), np.uint8),
            steps=np.array(series.steps),
            columns=np.array(list(series.columns.values())),
        )


def recall(log: Path) -> tuple[RunState, int]:
    """The state that was kept of `log` and the offset it goes up to; a new state and 0 where nothing of use was."""
    try:
        with np.load(log.with_name(FILE), allow_pickle=False) as kept:
            head = json.loads(kept["head"].tobytes())
            if head["version"] == VERSION and head["log"] == _fingerprint(log, head["offset"]):
                columns = dict(zip(head["columns"], kept["columns"]))
                return _state(head["state"], kept["steps"], columns), head["offset"]
    except Exception:  # a damaged zip raises nearly anything
        pass
    return RunState(), 0


def _state(plain: dict[str, Any], steps: np.ndarray[Any, Any], columns: dict[str, np.ndarray[Any, Any]]) -> RunState:
    state = RunState()
    if set(plain) != set(vars(state)) - {"series"}:
        raise ValueError("kept by another version")
    for name, value in plain.items():
        if isinstance(getattr(state, name), deque):
            getattr(state, name).extend(value)
        else:
            setattr(state, name, value)
    state.series.restore(steps, columns)
    return state


def _fingerprint(log: Path, offset: int) -> str:
    """Of the log's first bytes and of those before `offset`."""
    with log.open("rb") as file:
        head = file.read(min(COMPARED_BYTES, offset))
        file.seek(max(0, offset - COMPARED_BYTES))
        tail = file.read(min(COMPARED_BYTES, offset))
    return hashlib.sha256(head + tail).hexdigest()
