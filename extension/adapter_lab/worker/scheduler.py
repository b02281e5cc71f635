"""Advancing the queue: one waiting run after another, in a thread, also after a restart and beside other programs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker import process
from adapter_lab.worker.queue import QueueFile
from adapter_lab.worker.run_index import RunIndex
from adapter_lab.worker.starter import Starter

LOG = logging.getLogger("adapter_lab")
LOOK_SECONDS = 1.0


class Scheduler:
    """Starts the runs of a queue; `after_end` as the Worker's. `complaint` says why it cannot go on."""

    def __init__(self, watched: RunIndex, queue: QueueFile, starter: Starter, after_end: Callable[[], None]) -> None:
        self._index = watched
        self._queue = queue
        self._starter = starter
        self._after_end = after_end
        self.complaint = ""
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def advance(self) -> str:
        """Start the next run of the queue whose device is free; returns its id, "" if none was started."""
        none_left = self._starter.reap()
        queue = self._queue.read()
        started = ""
        if queue.order and not queue.paused:
            with self._starter.turn(0) as had:
                started = self._start_next() if had else ""
        if self._starter.has_started and not started and none_left and not self._index.living():
            self._starter.has_started = False
            self._after_end()
        return started

    def _start_next(self) -> str:
        for run_id in self._queue.read().order:
            try:
                run = self._index.get(run_id)
            except AdapterLabError as error:
                LOG.warning("The queue goes on without a run: %s", error)
                self._queue.remove(run_id)
                continue
            if process.is_alive(run.folder):  # started by a program that ended before it could say so
                self._queue.remove(run_id)
                continue
            try:
                self._starter.check_free(run.config.precision.device if run.config else "auto")
            except AdapterLabError:
                continue
            self._start_or_pause(run.folder)
            return run_id
        return ""

    def _start_or_pause(self, folder: RunFolder) -> None:
        """Start a run; where that fails nothing is lost: it stays in the queue, which pauses and says why."""
        try:
            self._starter.python()
            self._starter.check_room()
            self._starter.start(folder)
        except Exception as error:
            message = str(error) if isinstance(error, AdapterLabError) else f"{type(error).__name__}: {error}"
            self.complaint = f"The queue is paused, since {folder.path.name} could not be started: {message}"
            LOG.warning(self.complaint, exc_info=not isinstance(error, AdapterLabError))
            with contextlib.suppress(AdapterLabError), self._queue.change() as queue:
                queue.paused, queue.message = True, self.complaint

    # The thread

    def wake(self) -> None:
        """Look at the queue at once."""
        self._wake.set()

    def begin(self) -> None:
        """Advance the queue from now on in a thread of its own."""
        if self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._loop, name="adapter-lab-worker", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End the thread; runs go on."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _loop(self) -> None:
        while not self._closing.is_set():
            try:
                self.advance()
                self.complaint = self.complaint if self._queue.read().paused else ""
            except Exception as error:
                # Whatever it is, it is said once, and the queue is tried again.
                sentence = str(error) if isinstance(error, AdapterLabError) else f"{type(error).__name__}: {error}"
                if sentence != self.complaint:
                    LOG.warning("The queue cannot go on: %s", sentence, exc_info=True)
                self.complaint = sentence
                self._closing.wait(LOOK_SECONDS)
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
