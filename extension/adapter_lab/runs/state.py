"""What a run has come to, gathered from its events one by one."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from adapter_lab.runs.events import ENDS, Event
from adapter_lab.runs.series import MALFORMED, Series

# Speed and its collapse are judged by medians over this many steps, so that a slow step or two say nothing.
WINDOW = 20
MOST_MESSAGES = 200


class RunState:
    """The present state of a run; `feed` it its events in order.

    Where a run is resumed from a state of step s, what was noted of later steps is forgotten, as in `read_events`.
    """

    def __init__(self) -> None:
        self.series = Series()
        self.name = self.algo = self.device = self.adapter_folder = ""
        self.started_at: float | None = None
        self.session_at: float | None = None
        self.last_at: float | None = None
        self.total_steps = 0
        self.growth_rate: float | None = None
        self.phase = ""
        self.preparing: Event | None = None
        self.state_step = 0
        self.best_speed: float | None = None
        self.peak_bytes: int | None = None
        self.end: Event | None = None
        self.report: dict[str, Any] | None = None
        self.prompts: list[str] | None = None
        self.pictures: list[dict[str, Any]] = []
        self.pictures_total = 0
        self.adapters: dict[str, Event] = {}
        self.samples: list[Event] = []
        self.validation: list[Event] = []
        self.messages: deque[Event] = deque(maxlen=MOST_MESSAGES)

    def feed(self, events: Iterable[Event]) -> None:
        """Take further events into account; one that lacks what its kind needs is passed over."""
        for kind, group in groupby(events, lambda event: event.get("event")):
            if kind == "step":
                self._steps(list(group))
                continue
            for event in group:
                with contextlib.suppress(*MALFORMED):
                    self.last_at = float(event.get("time") or 0) or self.last_at
                    take = TAKE.get(event["event"])
                    if take is not None:
                        take(self, event)

    @property
    def step(self) -> int:
        """The last step done."""
        return self.series.steps[-1] if len(self.series) else 0

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        return next(iter(self.series.recent("progress", 1)), 0.0)

    @property
    def loss(self) -> float | None:
        """The smoothed loss."""
        return next(iter(self.series.recent("smooth", 1)), None)

    def seconds_per_step(self) -> float | None:
        """Median of the last steps."""
        recent = self.series.recent("seconds_per_step", WINDOW)
        return median(recent) if recent else None

    def eta_seconds(self) -> float | None:
        """Training time left at the present speed; None without a budget or before the second step."""
        speed, shares = self.seconds_per_step(), self.series.recent("progress", WINDOW)
        if speed is None or len(shares) < 2 or shares[-1] <= shares[0]:
            return None
        return (1 - shares[-1]) / ((shares[-1] - shares[0]) / (len(shares) - 1)) * speed

    def steps_expected(self) -> int:
        """Steps after which the run will end: its budget's, or what its progress points to; 0 if unknown."""
        if self.total_steps:
            return self.total_steps
        return round(self.step / self.progress) if self.progress > 0 else 0

    # One method per kind of event

    def _started(self, event: Event) -> None:
        self._begin(event)
        self.name, self.algo, self.device = (str(event.get(key, "")) for key in ("name", "algo", "device"))
        self.adapter_folder = str(event.get("adapters", ""))
        self.started_at = self.started_at or event["time"]

    def _resumed(self, event: Event) -> None:
        step = int(event["step"])
        self.series.drop_after(step)
        self.samples = [entry for entry in self.samples if entry.get("step", 0) <= step]
        self.validation = [entry for entry in self.validation if entry.get("step", 0) <= step]
        self.adapters = {path: entry for path, entry in self.adapters.items() if entry.get("step", 0) <= step}
        self.state_step = min(self.state_step, step)
        self._begin(event)

    def _begin(self, event: Event) -> None:
        self.phase, self.preparing, self.end = "preparing", None, None
        self.session_at = event.get("time")
        # Another session may compute elsewhere, beside other programs.
        self.best_speed = None

    def _preparing(self, event: Event) -> None:
        self.preparing = {key: event[key] for key in ("what", "done", "total")}

    def _training(self, event: Event) -> None:
        self.phase, self.preparing = "training", None
        self.total_steps = int(event["total_steps"])
        if "growth_rate" in event:
            self.growth_rate = float(event["growth_rate"])

    def _steps(self, events: list[Event]) -> None:
        before = len(self.series)
        self.series.extend(events)
        self.phase = "training"
        with contextlib.suppress(*MALFORMED):
            self.last_at = float(events[-1].get("time") or 0) or self.last_at
        memory = max((value for value in self.series.columns["memory_bytes"][before:] if value > 0), default=0)
        if memory > (self.peak_bytes or 0):
            self.peak_bytes = int(memory)
        speeds = self.series.columns["seconds_per_step"]
        for end in range(before - before % WINDOW + WINDOW, len(speeds) + 1, WINDOW):
            known = [value for value in speeds[end - WINDOW : end] if value == value]
            if known:
                self.best_speed = min(median(known), self.best_speed or math.inf)

    def _sample(self, event: Event) -> None:
        self.samples = [entry for entry in self.samples if entry["paths"] != event["paths"]] + [event]

    def _saved(self, event: Event) -> None:
        self.adapters[event["path"]] = event
        for path in event.get("removed", ()):
            self.adapters.pop(path, None)

    def _renamed(self, event: Event) -> None:
        if event["old"] in self.adapters:
            self.adapters[event["path"]] = {**self.adapters.pop(event["old"]), "path": event["path"]}

    def _state(self, event: Event) -> None:
        self.state_step = int(event["step"])

    def _pictures(self, event: Event) -> None:
        self.pictures = event["pictures"] or self.pictures
        self.pictures_total = event.get("total") or len(self.pictures)

    def _end(self, event: Event) -> None:
        self.end, self.phase = event, ""

    def _message(self, event: Event) -> None:
        self.messages.append(event)

    def _dataset(self, event: Event) -> None:
        self.report = event["report"]

    def _validation(self, event: Event) -> None:
        self.validation.append(event)

    def _prompts(self, event: Event) -> None:
        self.prompts = event["prompts"]


TAKE: dict[str, Callable[[RunState, Event], None]] = {
    "started": RunState._started,
    "resumed": RunState._resumed,
    "preparing": RunState._preparing,
    "training": RunState._training,
    "sample": RunState._sample,
    "saved": RunState._saved,
    "renamed": RunState._renamed,
    "state": RunState._state,
    "pictures": RunState._pictures,
    "dataset": RunState._dataset,
    "validation": RunState._validation,
    "prompts": RunState._prompts,
    "note": RunState._message,
    "warning": RunState._message,
    **dict.fromkeys(ENDS, RunState._end),
}


def sample_files(event: Event) -> list[dict[str, Any]]:
    """The images of a "sample" event: step, file (its name in `samples/`), prompt, index."""
    prompts = event.get("prompts") or []
    return [
        {
            "step": event.get("step", 0),
            "file": Path(path).name,
            "prompt": prompts[index] if index < len(prompts) else "",
            "index": index,
            "baseline": Path(path).name.startswith("baseline"),
        }
        for index, path in enumerate(event["paths"])
    ]
