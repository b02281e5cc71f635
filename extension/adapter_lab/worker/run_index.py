"""The runs of a folder, each read once and from then on only where it grew."""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs import state_cache
from adapter_lab.runs.read import Tail
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.runs.state import RunState
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.worker.process import is_alive
from adapter_lab.worker.study_log import StudyLog


@dataclass
class IndexedRun:
    """A run folder with what was read of it so far."""

    folder: RunFolder
    tail: Tail
    state: RunState
    config: TrainConfig | None = None
    problem: str = ""
    _config_time: int = -1
    _kept: int = 0

    @classmethod
    def of(cls, folder: RunFolder) -> IndexedRun:
        """A run as far as it was read before, if it was."""
        state, offset = state_cache.recall(folder.events)
        return cls(folder, Tail(folder.events, offset), state, _kept=offset)

    def refresh(self) -> None:
        """Read what is new."""
        try:
            self._read_config()
            self._read_log()
        except Exception as error:  # nobody foresaw it, and the other runs are to be seen nevertheless
            self.problem = f"{self.folder.events} cannot be read ({type(error).__name__}: {error})."

    def _read_log(self) -> None:
        restarted = self.tail.restarted
        for events in self.tail.blocks():
            if self.tail.restarted != restarted:
                restarted = self.tail.restarted
                self.state, self._kept = type(self.state)(), 0
            self.state.feed(events)
        if state_cache.worth_keeping(self.tail.offset, self._kept):
            self._kept = self.tail.offset
            state_cache.keep(self.folder.events, self.state, self._kept)

    def _read_config(self) -> None:
        try:
            time = self.folder.config.stat().st_mtime_ns
        except OSError:
            self.config, self._config_time = None, -1
            return
        if time == self._config_time:
            return
        self._config_time = time
        try:
            self.config, self.problem = config_file.load(self.folder.config), ""
        except ConfigError as error:
            self.config, self.problem = None, str(error)

    @property
    def is_study(self) -> bool:
        """Whether it is the folder of a study, whose runs lie below it."""
        return isinstance(self.state, StudyLog)

    @property
    def settings(self) -> dict[str, Any]:
        """Section -> setting -> value; empty where config.toml is missing or broken."""
        return dataclasses.asdict(self.config) if self.config else {}


class RunIndex:
    """All runs below a root; safe to ask from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs: dict[str, IndexedRun] = {}
        self._lock = threading.RLock()

    def all(self) -> list[IndexedRun]:
        """Every run, read up to now; a folder that is gone is forgotten."""
        with self._lock:
            names = self._names()
            for gone in set(self._runs) - set(names):
                del self._runs[gone]
            return [self._refreshed(name) for name in names]

    def living(self) -> list[IndexedRun]:
        """Those that train or start now."""
        return [run for run in self.all() if is_alive(run.folder)]

    def get(self, run_id: str) -> IndexedRun:
        """One run, read up to now; raises AdapterLabError where there is none of that name."""
        with self._lock:
            path = self.root / run_id
            if Path(run_id).name != run_id or run_id in ("", ".", "..") or not _holds_run(path):
                self._runs.pop(run_id, None)
                raise AdapterLabError(f"There is no run {run_id!r} in {self.root}; it may have been deleted.")
            return self._refreshed(run_id)

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and _holds_run(Path(entry)))
        except OSError:
            return []

    def _refreshed(self, name: str) -> IndexedRun:
        if name not in self._runs:
            folder = RunFolder(self.root / name)
            is_study = holds_study(folder.path)
            self._runs[name] = (
                IndexedRun(folder, Tail(folder.events), StudyLog()) if is_study else IndexedRun.of(folder)
            )
        run = self._runs[name]
        run.refresh()
        return run


def _holds_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.config.is_file() or folder.events.is_file() or holds_study(path)


def holds_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    folder = StudyFolder(path)
    return folder.plan.is_file() or folder.running.is_file()
