"""Looking at the runs and studies of a folder: how they stand, their numbers, logs and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import Event
from adapter_lab.runs.read import Tail
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker.queue import QueueFile
from adapter_lab.worker.run_index import IndexedRun, RunIndex
from adapter_lab.worker.studies import StudyDetail, StudyReader, StudySummary
from adapter_lab.worker.summary import RunDetail, RunSummary, detailed, log_tail, summarise


class RunQueries:
    """What is known of the runs and studies below `root`; nothing here changes anything."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self._index = RunIndex(self.root)
        self._queue = QueueFile(self.root)
        self._readers: dict[str, StudyReader] = {}

    def runs(self) -> list[RunSummary]:
        """Every run, the newest first."""
        order = set(self._queue.read().order)
        runs = [run for run in self._index.all() if not run.is_study]
        found = [self._summary(run, run.folder.path.name in order) for run in runs]
        return sorted(found, key=_newest, reverse=True)

    def run(self, run_id: str) -> RunDetail:
        """One run in full."""
        run = self._index.get(run_id)
        summary = self._summary(run, run_id in self._queue.read().order)
        return detailed(summary, run.folder, run.state, run.settings, run.tail.offset)

    def summary(self, run_id: str) -> RunSummary:
        """One run in a line."""
        return self._summary(self._index.get(run_id), run_id in self._queue.read().order)

    def folder(self, run_id: str) -> RunFolder:
        """Where a run's files are; raises AdapterLabError where there is no such run."""
        return self._index.get(run_id).folder

    def active(self) -> RunSummary | StudySummary | None:
        """The run or study that trains or starts now."""
        living = self._index.living()
        if not living:
            return None
        run = living[0]
        return self._study_summary(run, False) if run.is_study else self._summary(run, False)

    def studies(self) -> list[StudySummary]:
        """Every study, the newest first."""
        order = set(self._queue.read().order)
        studies = [run for run in self._index.all() if run.is_study]
        found = [self._study_summary(run, run.folder.path.name in order) for run in studies]
        return sorted(found, key=_newest, reverse=True)

    def study(self, study_id: str) -> StudyDetail:
        """One study in full; raises AdapterLabError where there is none of that name."""
        run = self._index.get(study_id)
        if not run.is_study:
            raise AdapterLabError(f"There is no study {study_id!r} in {self.root}; it may have been deleted.")
        return self._reader(run).detail(run, study_id in self._queue.read().order)

    def is_study(self, run_id: str) -> bool:
        """Whether what has that id is a study; raises AdapterLabError where there is neither."""
        return self._index.get(run_id).is_study

    def _reader(self, run: IndexedRun) -> StudyReader:
        name = run.folder.path.name
        if name not in self._readers:
            self._readers[name] = StudyReader(run.folder.path)
        return self._readers[name]

    def series(self, run_id: str, points: int = 1000) -> dict[str, Any]:
        """The run's numbers for charts: what Series.drawn gives, `validation` and the log's `offset` they go up to."""
        run = self._index.get(run_id)
        validation = [{"step": event["step"], "loss": event["loss"]} for event in run.state.validation]
        return {**run.state.series.drawn(points), "validation": validation, "offset": run.tail.offset}

    def log(self, run_id: str, lines: int = 200) -> str:
        """The last lines of the run's log."""
        return log_tail(self._index.get(run_id).folder, lines)

    def tail(self, run_id: str, offset: int = 0) -> tuple[list[Event], int]:
        """The events behind `offset` in the run's log, and the offset behind them."""
        tail = Tail(self._index.get(run_id).folder.events, max(0, offset))
        return tail.read(), tail.offset

    def diff(self, run_id: str, other: str) -> list[dict[str, Any]]:
        """The settings in which two runs differ: {setting, left, right}."""
        left, right = (self._index.get(name).settings for name in (run_id, other))
        return [
            {"setting": f"{section}.{name}", "left": left.get(section, {}).get(name), "right": right[section][name]}
            for section in (right or {})
            for name in right[section]
            if left.get(section, {}).get(name) != right[section][name]
        ]

    def _summary(self, run: IndexedRun, queued: bool) -> RunSummary:
        name = run.config.run.name if run.config else run.folder.path.name
        algo = run.config.network.algo if run.config else ""
        try:
            summary = summarise(run.folder, run.state, name, algo, queued)
        except Exception as error:
            return RunSummary(**_unreadable(run, error), algo=algo)
        if run.problem and not summary.message:
            summary.message = run.problem
        return summary

    def _study_summary(self, run: IndexedRun, queued: bool) -> StudySummary:
        try:
            return self._reader(run).summary(run, queued)
        except Exception as error:
            return StudySummary(**_unreadable(run, error))


def _newest(found: RunSummary | StudySummary) -> tuple[float, str]:
    return found.started_at or float("inf"), found.id


def _unreadable(run: IndexedRun, error: Exception) -> dict[str, Any]:
    """A line for a folder of which something is broken in a way that nobody foresaw: the others are listed with it."""
    why = f"{type(error).__name__}: {error}"
    return {
        "id": run.folder.path.name,
        "folder": str(run.folder.path),
        "name": run.folder.path.name,
        "state": "failed",
        "message": f"Something in {run.folder.path} cannot be read ({why}): delete it, or put back what was changed.",
    }
