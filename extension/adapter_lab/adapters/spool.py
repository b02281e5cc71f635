"""Tensors of a file in the making, kept on the disk beside it, so that memory holds a layer or two and not the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from adapter_lab import files
from adapter_lab.adapters import writing
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.tensors import TensorFile, TensorInfo


class Spool(Mapping[str, Tensor]):
    """Tensors by key, appended to a temporary file and read back from it; a context manager that removes that file."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        """`out`: the file to be made. Raises WriteError if its folder cannot be written to."""
        self.out = Path(out)
        files.make_folder(self.out.parent)
        files.remove_leftovers(self.out.parent)
        self._path = files.temporary_path(self.out, files.SPOOL)
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            raise files.write_error(self.out, error) from error
        self._tensors = TensorFile(self._path, {}, {}, 0)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):  # what a full disk has left in the buffer is not needed any more
            self._file.close()
        with suppress(OSError):
            self._path.unlink()

    def __getitem__(self, key: str) -> Tensor:
        self._write(b"")
        return self._tensors.read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors.tensors)

    def __len__(self) -> int:
        return len(self._tensors.tensors)

    def add(self, key: str, tensor: Tensor) -> None:
        """Append a tensor; raises WriteError when the disk is full."""
        start = self._file.tell()
        self._write(writing.raw_bytes(tensor))
        end = self._file.tell()
        self._tensors.tensors[key] = TensorInfo(key, tuple(tensor.shape), tensor.dtype, start, end)

    def _write(self, content: Any) -> None:
        """Append bytes, and let none wait in the buffer, where the disk's being full would be found out later."""
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise files.write_error(self.out, error) from error

    def save(self, metadata: Mapping[str, str]) -> int:
        """Write the file atomically, with these metadata and the hashes hosts look up; returns its size in bytes."""
        save_adapter(self.out, self, metadata)
        return self.out.stat().st_size
