"""Requests to stop a run: Ctrl-C, SIGTERM, or a file named `stop` in its folder."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

STOP_FILE = "stop"
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopRequests:
    """Watches for a request to stop, so that training can save first and then end.

    Signals are only caught in the main thread and inside `with`. A second one has its usual effect at once.
    """

    def __init__(self, run_folder: Path) -> None:
        self._file = run_folder / STOP_FILE
        self._signal = ""
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        # A file left from an earlier stop must not stop a resumed run.
        self._file.unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._catch) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def reason(self) -> str:
        """How a stop was asked for, in words; "" if it was not."""
        if self._signal:
            return f"stopped by {self._signal}"
        return "stopped by the stop file" if self._file.exists() else ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._signal = _SIGNALS[signal.Signals(number)]
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
