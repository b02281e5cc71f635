"""Starting a run: what must be so before, and the process itself, one at a time per device."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from adapter_lab.config import TrainConfig
from adapter_lab.environment.status import read_status, runtime_folder, runtime_python
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs import requests
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker import process
from adapter_lab.worker.queue import QueueFile, locked
from adapter_lab.worker.run_index import RunIndex

LEAST_FREE_BYTES = 200 * 2**20
START_LOCK_SECONDS = 5.0


class Starter:
    """Starts the runs of a root; `before_start` and `python` as the Worker's."""

    def __init__(
        self, watched: RunIndex, queue: QueueFile, before_start: Callable[[], None], python: Path | None
    ) -> None:
        self._index = watched
        self._queue = queue
        self._before_start = before_start
        self._given_python = python
        self._lock = watched.root / ".start.lock"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.has_started = False  # since `after_end` was last called

    def python(self) -> Path:
        """The private environment's interpreter; raises AdapterLabError where it is not set up."""
        if self._given_python is not None:
            if not self._given_python.exists():
                raise AdapterLabError(f"{self._given_python} does not exist, so nothing can be trained.")
            return self._given_python
        status = read_status()
        if not status.ready:
            raise AdapterLabError(f"{status.message} Until this has run, nothing can be trained: {status.run}")
        return runtime_python(runtime_folder())

    def check(self, device: str, when: str) -> None:
        """Raise AdapterLabError where there is no room, or where `when` is "now" and the device is taken."""
        if when == "now":
            self.check_free(device)
        self.check_room()

    def check_free(self, device: str) -> None:
        """Raise AdapterLabError where a run trains on the device."""
        for run in self._index.living():
            if _same_device(device, run.config):
                raise AdapterLabError(
                    f"{run.folder.path.name} is training right now; wait, stop it, or add this run to the queue."
                )

    def check_room(self) -> None:
        """Raise AdapterLabError where the runs folder cannot be used, or has too little room."""
        root = self._index.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(root).free
        except OSError as error:
            raise AdapterLabError(f"The runs folder {root} cannot be used ({error.strerror}).") from error
        if free < LEAST_FREE_BYTES:
            raise AdapterLabError(
                f"Only {free / 2**20:.0f} MiB are free where {root} lies; make room for states and adapters first."
            )

    def start_now(self, folder: RunFolder) -> None:
        """Start a run's process; raises AdapterLabError where another one is being started or trains."""
        with self.turn(START_LOCK_SECONDS) as had:
            if not had:
                raise AdapterLabError("Another run is being started right now; try again.")
            self.start(folder)

    def turn(self, seconds: float) -> contextlib.AbstractContextManager[bool]:
        """Only one program at a time starts runs of this root: whether it is this one's turn within `seconds`."""
        return locked(self._lock, seconds)

    def start(self, folder: RunFolder) -> None:
        """As `start_now`, inside of `turn`."""
        python = self.python()
        run = self._index.get(folder.path.name)
        self.check_free(run.config.precision.device if run.config else "auto")
        process.announce(folder)
        try:
            requests.forget(folder.path)
            self.has_started = True
            self._before_start()
            self._children[folder.path.name] = process.start(folder, python)
        except BaseException:
            folder.starting.unlink(missing_ok=True)
            raise
        self._queue.remove(folder.path.name)

    def reap(self) -> bool:
        """Let processes of ours that ended be gone; whether none is left."""
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(name, None)
        return not self._children


def _same_device(device: str, config: TrainConfig | None) -> bool:
    """Whether two runs would share a device; "auto" may be any."""
    other = config.precision.device if config else "auto"
    names = {"cuda:0" if name == "cuda" else name for name in (device, other)}
    return "auto" in names or len(names) == 1
