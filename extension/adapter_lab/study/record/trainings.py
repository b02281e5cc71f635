"""One training of a study, read from its run folder: how far it is, its checkpoints, its curve."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.runs.budget import RunBudget, SaveSchedule
from adapter_lab.runs.events import Event, read_events
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec.definition import Budget

# The log rounds seconds.
ROUNDING = 2e-3
# What passes between two steps (waiting for images, a busy machine); a longer pause is no part of training.
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Saved:
    """An adapter that was saved after a checkpoint of the study, counted from 1."""

    point: int
    step: int
    seconds: float
    adapter: Path | None
    file_bytes: int


class TrainingRecord:
    """A run folder as a study reads it; it may not have been started."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)

    @cached_property
    def config(self) -> TrainConfig | None:
        """Its configuration; None before it was prepared."""
        return config_file.load(self.folder.config) if self.folder.config.exists() else None

    @cached_property
    def events(self) -> list[Event]:
        """Its events, as if it had never been interrupted."""
        return read_events(self.folder.events) if self.folder.events.exists() else []

    def of_kind(self, kind: str) -> list[Event]:
        """Its events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @cached_property
    def steps(self) -> list[Event]:
        """One event per step, in order."""
        return self.of_kind("step")

    @property
    def end(self) -> Event | None:
        """The event with which its last session ended; None while it runs, and where it was killed."""
        last = self.events[-1] if self.events else None
        return last if last and last["event"] in ("finished", "failed") else None

    @property
    def is_complete(self) -> bool:
        """Whether its whole budget is used up."""
        end, config = self.end, self.config
        if end is None or config is None or end["event"] != "finished" or "seconds" not in end:
            return False
        budget = RunBudget(config.run.steps, 0, config.run.minutes, 1)
        return bool(budget.ended(end["step"], end["seconds"] + ROUNDING))

    @property
    def is_at_rest(self) -> bool:
        """Whether its last session ended by itself: at the end, at a checkpoint, or when asked to stop."""
        return self.end is not None and self.end["event"] == "finished"

    @cached_property
    def minutes(self) -> list[float]:
        """Minutes of training after each step."""
        return [seconds / 60 for seconds in accumulate(event["seconds_per_step"] for event in self.steps)]

    @cached_property
    def busy(self) -> list[tuple[float, float]]:
        """When it trained, as (from, to) in seconds since 1970."""
        found: list[tuple[float, float]] = []
        for event in self.steps:
            begin, end = event["time"] - event["seconds_per_step"], event["time"]
            if found and begin - found[-1][1] < PAUSE_SECONDS:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
        return found

    @cached_property
    def images_per_step(self) -> float:
        """Images seen per optimiser step, on average over an epoch."""
        reports = self.of_kind("dataset")
        if not reports:
            return 0.0
        report = reports[-1]["report"]
        return report["uses_per_epoch"] / report["steps_per_epoch"]

    def images(self, step: int) -> int:
        """Images seen after `step` steps, exact where an epoch ends."""
        return round(step * self.images_per_step)

    @cached_property
    def saved(self) -> list[Saved]:
        """What was saved at checkpoints, in order; adapters saved because of a stop between them do not count."""
        if self.config is None:
            return []
        points = SaveSchedule(self.config.save, 1)
        found: dict[int, Saved] = {}
        files = {event["step"]: event for event in self.of_kind("saved")}
        before = (0, 0.0)
        for event in self.of_kind("state"):
            step, seconds = event["step"], event["seconds"] + ROUNDING
            point = min(points.passed(step, seconds), self._last_point)
            if point > points.passed(*before) and step in files and self._is_at_point(point, step, seconds):
                found[point] = self._saved(point, step, event["seconds"], files[step])
            before = (step, seconds)
        return list(found.values())

    @property
    def _last_point(self) -> int:
        """The checkpoint at which the budget ends, which a slow last step may pass by more than one."""
        assert self.config is not None
        run, save = self.config.run, self.config.save
        return run.steps // save.every_steps if save.every_steps else round(run.minutes / save.every_minutes)

    def _is_at_point(self, point: int, step: int, seconds: float) -> bool:
        """Whether the step before had not passed the point, as far as waits between steps let that be told."""
        assert self.config is not None
        if self.config.save.every_steps:
            return step == point * self.config.save.every_steps
        took = self.steps[step - 1]["seconds_per_step"] if step <= len(self.steps) else 0.0
        return seconds - took - PAUSE_SECONDS <= 60 * self.config.save.every_minutes * point

    def _saved(self, point: int, step: int, seconds: float, event: Event) -> Saved:
        path = self._adapter(Path(event["path"]), step)
        return Saved(point, step, seconds, path, event["bytes"])

    def _adapter(self, path: Path, step: int) -> Path | None:
        """Where the file is now: a finished training that went on has numbered its last file, and studies move."""
        numbered = path.with_name(f"{path.stem}-{step:06d}{path.suffix}")
        is_last = bool(self.steps) and step >= self.steps[-1]["step"]
        names = [path.name, numbered.name] if is_last or not self._is_final(path) else [numbered.name]
        moved = StudyFolder(self.folder.path.parents[1]).adapters
        places = [folder / name for name in names for folder in (path.parent, moved)]
        return next((place for place in places if place.is_file()), None)

    def _is_final(self, path: Path) -> bool:
        return self.config is not None and path.stem == self.config.run.name

    def losses_between(self, first: int, last: int) -> dict[int, float]:
        """Loss by step, of the steps after `first` up to `last`."""
        begin = bisect_right(self.steps, first, key=_step)
        return {e["step"]: e["loss"] for e in self.steps[begin : bisect_right(self.steps, last, key=_step)]}

    def validation(self) -> dict[int, float]:
        """Validation loss by step."""
        return {event["step"]: event["loss"] for event in self.of_kind("validation")}

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates in effect at a step, by part."""
        index = bisect_right(self.steps, step, key=_step) - 1
        return {part: entry["lr"] for part, entry in self.steps[index]["rates"].items()} if index >= 0 else {}

    def failure(self) -> str:
        """Why its last session failed, as it said itself; "" if it did not say."""
        end = self.end
        return str(end["message"]) if end is not None and end["event"] == "failed" else ""


def amount_of(budget: Budget, record: TrainingRecord, saved: Saved) -> float:
    """What of the budget was used at a checkpoint, in its unit."""
    used: dict[str, float] = {
        "minutes": saved.seconds / 60,
        "steps": saved.step,
        "images": record.images(saved.step),
    }
    return used[budget.unit]


def _step(event: Event) -> Any:
    return event["step"]
