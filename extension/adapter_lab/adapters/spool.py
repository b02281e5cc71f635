"""Tensors of a file in the making, kept on the disk beside it, so that memory holds a layer or two and not the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch import Tensor

from adapter_lab.adapters import writing
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.tensors import TensorFile, TensorInfo
from adapter_lab.errors import AdapterLabError


class Spool(Mapping[str, Tensor]):
    """Tensors by key, appended to a temporary file and read back from it; a context manager that removes that file."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        """`out`: the file to be made. Raises AdapterLabError if its folder cannot be written to."""
        self.out = Path(out)
        self._path = self.out.with_name(f".{self.out.name}.{os.getpid()}.spool")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise AdapterLabError(f"{self.out} could not be written: {error.strerror}.") from error
        self._tensors = TensorFile(self._path, {}, {}, 0)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        with suppress(OSError):
            self._path.unlink()

    def __getitem__(self, key: str) -> Tensor:
        self._file.flush()
        return self._tensors.read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors.tensors)

    def __len__(self) -> int:
        return len(self._tensors.tensors)

    def add(self, key: str, tensor: Tensor) -> None:
        """Append a tensor; raises AdapterLabError when the disk is full."""
        start = self._file.tell()
        try:
            self._file.write(writing.raw_bytes(tensor))
        except OSError as error:
            raise AdapterLabError(f"{self.out} could not be written: {error.strerror}; free some space.") from error
        end = self._file.tell()
        self._tensors.tensors[key] = TensorInfo(key, tuple(tensor.shape), tensor.dtype, start, end)

    def save(self, metadata: Mapping[str, str]) -> int:
        """Write the file atomically, with these metadata and the hashes hosts look up; returns its size in bytes."""
        save_adapter(self.out, self, metadata)
        return self.out.stat().st_size
