"""What is asked of a run: Ctrl-C, SIGTERM, request files in its folder, or the end of the study it is part of."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from adapter_lab.errors import TrainingStopped
from adapter_lab.runs import requests
from adapter_lab.runs.processes import living_process
from adapter_lab.runs.requests import Requested
from adapter_lab.runs.run_folder import RunFolder

STOP_FILE = requests.STOP
# Set for a training that must not outlive the process that started it: "<process id>:<when that was started>".
PARENT = "ADAPTER_LAB_PARENT"
PARENT_SECONDS = 1.0  # between two looks
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_NOTHING = Requested()


class StopRequests:
    """Watches for a request to stop, so that training can save first and then end, and for the other requests.

    Signals are only caught in the main thread and inside `with`. A second one has its usual effect at once.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._signal = ""
        self._handlers: dict[signal.Signals, Any] = {}
        self._parent = os.environ.get(PARENT, "")
        self._next_look = 0.0

    def __enter__(self) -> StopRequests:
        # A file left from an earlier stop must not stop a resumed run; what came since a worker started us counts.
        if not _started_by_worker(RunFolder(self._folder)):
            requests.forget(self._folder)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._catch) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()
        requests.forget(self._folder)

    def reason(self) -> str:
        """How a stop was asked for, in words; "" if it was not."""
        if self._signal:
            return f"stopped by {self._signal}"
        if self._parent and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + PARENT_SECONDS
            if not _lives(self._parent):
                return "stopped, because the study it belongs to has ended"
        return "stopped by the stop file" if (self._folder / requests.STOP).exists() else ""

    def take(self) -> Requested:
        """What else was asked for since the last call; raises TrainingStopped where the run folder is gone."""
        try:
            names = requests.present(self._folder)
            return requests.take(self._folder, names) if names else _NOTHING
        except FileNotFoundError as error:
            raise TrainingStopped(
                f"{self._folder} was deleted while the run trained, so it cannot be saved there; start it again."
            ) from error

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._signal = _SIGNALS[signal.Signals(number)]
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _lives(parent: str) -> bool:
    """Whether the process "<id>:<when it was started>" is still there; another one with its old number is not it."""
    number, _, started = parent.partition(":")
    try:
        return living_process({"pid": int(number), "started": float(started)}) is not None
    except ValueError:
        return False


def _started_by_worker(folder: RunFolder) -> bool:
    child = living_process((folder.mark() or {}).get("child"))
    # On Windows the interpreter of a virtual environment starts the real one.
    return child is not None and child.pid in (os.getpid(), os.getppid())
