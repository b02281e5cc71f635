"""The event log of a run: `events.jsonl`, one JSON object per line, only ever appended to.

Every event has `event` (its kind) and `time` (seconds since 1970). Kinds and what else they hold:
    started     run, folder, name, started_at, algo, device, format, adapters (their folder)
    resumed     step: events of later steps written before this one no longer count
    note        message that is good to know
    warning     message about what a person may want to change
    dataset     report on the images, and its text
    preparing   what (scan, latents, captions), done, total
    cached      what, made, found, seconds
    training    step, total_steps (0: only time ends it), steps_per_epoch: the steps begin; with Prodigy growth_rate (0:
                any), d0 and d_coef, the numbers that it uses
    step        step, epoch, loss, rates per part (lr, d, d_hat), seconds_per_step, memory_bytes, progress (0 to 1)
    validation  step, loss
    sample      step, paths, prompts
    saved       step, path, bytes, final, requested (by a person), removed (older files deleted for it)
    renamed     step, old, path: a saved file has another name from now on
    images    step, images: those learned worst so far, and how many there are
    prompts     step, prompts: the sample prompts were changed
    state       step, path, seconds (of training so far)
    finished    step, reason, seconds, seconds_per_step, final_loss, peak_bytes, loading_peak_bytes, adapters, images,
                findings: sentences on what the steps show
    failed      message
    stopped     message: its process was ended by a person, without saving
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapter_lab import jsonio
from adapter_lab.runs.shapes import is_event

Event = dict[str, Any]
ENDS = ("finished", "failed", "stopped")


class EventLog:
    """Appends events to a file; each line reaches the operating system at once, so `kill -9` loses none."""

    def __init__(self, path: Path, on_event: Callable[[Event], None] | None = None) -> None:
        torn = _ends_inside_a_line(path)
        # Line-buffered: one write per event, and no fsync, which would cost more than many a training step.
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._on_event = on_event
        if torn:
            self._file.write("\n")

    def write(self, kind: str, **values: Any) -> Event:
        """Append one event and return it; numbers that are not finite are written as null."""
        event: Event = {"event": kind, "time": round(time.time(), 3), **values}
        event = plain(event)
        self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")
        if self._on_event is not None:
            self._on_event(event)
        return event

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_lines(path: Path) -> Iterator[Event]:
    """Every complete event as written; a line torn by a crash is left out."""
    with path.open("rb") as file:
        for line in file:
            try:
                event = jsonio.parsed(line)
            except ValueError:
                continue
            if is_event(event):
                yield event


def read_events(path: Path) -> list[Event]:
    """The events of a run as if it had never been interrupted.

    Where the run was resumed from a state of step s, events of later steps written before that were done again, and an
    end that was not the end is left out.
    """
    events: list[Event] = []
    for event in read_lines(path):
        if event["event"] == "resumed":
            events = [e for e in events if e.get("step", 0) <= event["step"] and e["event"] not in ENDS]
        events.append(event)
    return events


def _ends_inside_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def plain(value: Any) -> Any:
    """`value` with only what JSON can hold: numbers that are not finite become None, other things their text."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
