"""Checkpoint files tensor by tensor: safetensors, and pickles read with `weights_only`, which runs no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters import writing
from adapter_lab.adapters.tensors import DTYPE_NAMES, PICKLES, Scratch, TensorFile
from adapter_lab.errors import FileFormatError


class Checkpoint:
    """A checkpoint whose tensors are read when asked for."""

    def __init__(self, path: Path, metadata: dict[str, str], tensors: dict[str, Tensor] | TensorFile) -> None:
        self.path = path
        self.metadata = metadata
        self._tensors = tensors
        if isinstance(tensors, TensorFile):
            self.shapes = tensors.shapes
            self.dtypes = {key: info.dtype for key, info in tensors.tensors.items()}
        else:
            self.shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
            self.dtypes = {key: tensor.dtype for key, tensor in tensors.items()}

    def read(self, key: str, scratch: Scratch) -> Tensor:
        """A copy of tensor `key`, in the file's dtype, in the memory of `scratch`."""
        if isinstance(self._tensors, TensorFile):
            return self._tensors.read(key, scratch)
        return scratch.empty(self.shapes[key], self.dtypes[key]).copy_(self._tensors[key])

    def chunks(self, key: str) -> Iterable[Any]:
        """The bytes of tensor `key`, in chunks."""
        if isinstance(self._tensors, TensorFile):
            return self._tensors.chunks(key)
        return [writing.raw_bytes(self._tensors[key])]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a `.safetensors` checkpoint (header only), or a `.ckpt`/`.pt` one without running code in it.

    Raises FileFormatError if it is neither.
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLES or not path.exists():
        file = TensorFile.open(path)
        return Checkpoint(path, file.metadata, file)
    return Checkpoint(path, {}, _pickled_tensors(path))


def _pickled_tensors(path: Path) -> dict[str, Tensor]:
    try:
        try:  # torch 2.1 memory-maps a string, not a Path
            found = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be memory-mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileFormatError(
            f"{path} holds more than weights, so reading it could run code; convert it to .safetensors first."
        ) from None
    except Exception as error:
        raise FileFormatError(f"{path} is not a checkpoint that torch can read ({type(error).__name__}).") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    tensors = {key: tensor for key, tensor in found.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise FileFormatError(f"{path} holds no tensors.")
    return {key: tensor for key, tensor in tensors.items() if tensor.dtype in DTYPE_NAMES}
