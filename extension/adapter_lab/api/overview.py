"""How all runs stand, for many pages at once."""

from __future__ import annotations

import threading
import time
from typing import Any

from adapter_lab.worker import Worker

KEPT_SECONDS = 0.9


class Overview:
    """How runs and queue stand, asked for once for all pages that look."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._runs: dict[str, dict[str, Any]] = {}
        self._queue: dict[str, Any] = {}

    def read(self) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Summaries by id, and the queue; at most KEPT_SECONDS old."""
        with self._lock:
            if self._read_at is None or time.monotonic() - self._read_at > KEPT_SECONDS:
                self._runs = {run.id: run.to_dict() for run in self._worker.runs()}
                self._queue = self._worker.queue().to_dict()
                self._read_at = time.monotonic()
            return self._runs, self._queue
