"""A safetensors file whose bytes were read once: what happens to the file on disk later changes nothing here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from adapter_lab.adapters.tensors import COPY_CHUNK, Scratch, TensorFile, TensorInfo
from adapter_lab.errors import FileFormatError


class FileInMemory(TensorFile):
    """As `TensorFile`, its tensors being views of one buffer: they cost nothing and must not be written to."""

    def __init__(self, file: TensorFile) -> None:
        """Read the bytes of all tensors of `file`; raises FileFormatError if the file has become shorter."""
        super().__init__(file.path, file.tensors, file.metadata, file.data_start)
        self._data = torch.empty(file.size - file.data_start, dtype=torch.uint8)
        try:
            with self.path.open("rb") as opened:
                opened.seek(self.data_start)
                read = opened.readinto(self._data.numpy().data)
        except OSError as error:
            raise FileFormatError(f"{self.path} cannot be read: {error.strerror}.") from error
        if read != self._data.numel():
            raise FileFormatError(f"{self.path} is cut short: it became shorter while it was read.")

    def read(self, key: str, scratch: Scratch | None = None) -> Tensor:
        """Tensor `key`, on the CPU, in the file's dtype: a view, or a copy in the memory of `scratch`."""
        tensor = self._view(self.tensors[key])
        return tensor if scratch is None else scratch.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def read_many(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Several tensors by name."""
        return {key: self.read(key) for key in keys}

    def chunks(self, key: str) -> Iterator[bytes]:
        """The raw bytes of tensor `key`, a few MB at a time."""
        info = self.tensors[key]
        for start in range(info.start, info.end, COPY_CHUNK):
            yield bytes(self._bytes(start, min(start + COPY_CHUNK, info.end)).numpy().data)

    def _bytes(self, start: int, end: int) -> Tensor:
        return self._data[start - self.data_start : end - self.data_start]

    def _view(self, info: TensorInfo) -> Tensor:
        raw = self._bytes(info.start, info.end)
        if (info.start - self.data_start) % max(info.dtype.itemsize, 1):
            raw = raw.clone()  # the format allows tensors at any byte; a view of wider numbers does not
        return raw.view(info.dtype).reshape(info.shape)
