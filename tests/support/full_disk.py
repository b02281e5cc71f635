"""A disk with so much room: what is written beyond it fails as the system says it, wherever the bytes come from."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest


class _File(io.FileIO):
    disk: FullDisk

    def write(self, content: Any) -> int:
        given = memoryview(content).cast("B")
        fits = given[: self.disk.room]
        if len(given) and not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.disk.room -= len(fits)
        return super().write(fits)


class FullDisk:
    """Room in bytes for files that `Path.open` makes from now on; what was written is not given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        opened = Path.open

        def open_(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode != "wb":
                return opened(path, mode, *arguments, **options)
            file = _File(path, "wb")
            file.disk = self
            return io.BufferedWriter(file)

        monkeypatch.setattr(Path, "open", open_)
