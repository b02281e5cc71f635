"""The queue of runs, on disk (`queue.json` in the runs folder), so that it outlives the web UI."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # comes with torch

from adapter_lab import files, jsonio
from adapter_lab.errors import AdapterLabError, WriteError

LOG = logging.getLogger("adapter_lab")
LOCK_SECONDS = 10.0


@dataclass
class Queue:
    """Runs that wait (`order`, ids, the next one first), whether starting them is paused, and the living (`active`).

    `message` says why it was paused by itself, or what happened to the file.
    """

    order: list[str] = field(default_factory=list)
    paused: bool = False
    message: str = ""
    active: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class QueueFile:
    """Reads and changes the queue; every change holds a lock and replaces the file at once."""

    def __init__(self, root: Path) -> None:
        self.path = root / "queue.json"
        self._lock = root / ".queue.lock"

    def read(self) -> Queue:
        """The queue as it is; a file that cannot be understood counts as empty here, and `change` puts it aside."""
        try:
            return _parsed(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Queue()
        except (OSError, ValueError) as error:
            return Queue(message=f"{self.path} cannot be read ({error}); runs that waited are listed as not started.")

    @contextmanager
    def change(self) -> Iterator[Queue]:
        """The queue to change inside; written when that ends without an error, if it is another one.

        Raises AdapterLabError where the file cannot be written, or where another program holds the lock too long.
        """
        with locked(self._lock, LOCK_SECONDS) as had:
            if not had:
                raise AdapterLabError(f"{self.path} is held by another program; try again.")
            queue = self._read_or_put_aside()
            before = asdict(queue)
            yield queue
            if asdict(queue) != before:
                self._write(queue)

    def append(self, run_id: str) -> None:
        """Put a run at the end, also one that waits already."""
        with self.change() as queue:
            queue.order = [entry for entry in queue.order if entry != run_id] + [run_id]

    def remove(self, run_id: str) -> None:
        """Take a run out."""
        with self.change() as queue:
            queue.order = [entry for entry in queue.order if entry != run_id]

    def _read_or_put_aside(self) -> Queue:
        queue = self.read()
        if not queue.message or not self.path.exists():
            return queue
        try:
            _parsed(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            aside = self.path.with_name(f"queue.broken-{time.strftime('%Y%m%d-%H%M%S')}.json")
            try:
                os.replace(self.path, aside)
            except OSError as error:
                raise AdapterLabError(f"{self.path} can neither be read nor replaced ({error.strerror}).") from error
            queue.message = (
                f"The queue's file could not be read and is kept as {aside.name}; runs that waited are listed as not "
                "started, queue them again."
            )
            LOG.warning(queue.message)
        return queue

    def _write(self, queue: Queue) -> None:
        content = {"order": queue.order, "paused": queue.paused, "message": queue.message}
        try:
            files.write_json(self.path, content, indent=2)
        except WriteError as error:
            raise AdapterLabError(
                f"The queue could not be written to {self.path} ({error.strerror}); make room or check the folder. "
                "It stays as it was."
            ) from error


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[bool]:
    """Hold the lock file `path`, and say whether it was free within `seconds`.

    Raises AdapterLabError where it cannot be written.
    """
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise AdapterLabError(f"{path} cannot be written ({error.strerror}); make room or check the folder.") from error
    try:
        yield True
    finally:
        lock.release()


def _parsed(text: str) -> Queue:
    content = jsonio.table(jsonio.parsed(text))
    order = jsonio.typed(list[str], content.get("order"), "order")
    return Queue(list(dict.fromkeys(order)), bool(content.get("paused")), str(content.get("message") or ""))
