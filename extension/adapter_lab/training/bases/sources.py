"""Files that hold weights: safetensors, and pickles read without running their code."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adapter_lab.adapters.layouts import Source
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import FileFormatError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
GIT_LFS = b"version https://git-lfs"
# Enough of every tensor to tell two checkpoints apart, little enough to read in a moment.
SAMPLED_BYTES = 2048


class Weights(Protocol):
    """Tensors by name, of which only names and shapes are in memory until one is read."""

    path: Path
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        ...

    def read(self, key: str) -> Tensor:
        """One whole tensor on the CPU in the file's dtype, in memory of its own."""
        ...

    def sample(self, key: str) -> bytes:
        """The first bytes of a tensor, for content keys."""
        ...


class SafetensorsWeights:
    """A `.safetensors` file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = TensorFile.open(path)
        self.metadata: Mapping[str, str] = self._file.metadata

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        return self._file.shapes

    def read(self, key: str) -> Tensor:
        """One whole tensor."""
        return self._file.read(key)

    def sample(self, key: str) -> bytes:
        """The first bytes of a tensor."""
        info = self._file.tensors[key]
        with self.path.open("rb") as file:
            file.seek(info.start)
            return file.read(min(SAMPLED_BYTES, info.end - info.start))


class PickledWeights:
    """A `.ckpt`, `.pt` or `.bin` file, read by torch's restricted unpickler; zip files are mapped, not loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _unpickle(path)
        state = content.get("state_dict", content)
        self._tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
        if not self._tensors:
            raise FileFormatError(f"{path} holds no tensors, so it is not a checkpoint; choose another file.")
        step = content.get("global_step")
        self.metadata: Mapping[str, str] = {"global_step": str(step)} if isinstance(step, int) else {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        return {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str) -> Tensor:
        """One whole tensor; a copy, since the mapped file may change."""
        return self._tensors[key].detach().clone()

    def sample(self, key: str) -> bytes:
        """The first bytes of a tensor."""
        start = self._tensors[key].detach().reshape(-1)[: SAMPLED_BYTES // 8].clone()
        return start.view(torch.uint8).numpy().tobytes()


class ShardedWeights:
    """Several files that together hold one component."""

    def __init__(self, path: Path, files: list[Weights]) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self._files = {key: file for file in files for key in file.shapes}
        self._shapes = {key: shape for file in files for key, shape in file.shapes.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        return dict(self._shapes)

    def read(self, key: str) -> Tensor:
        """One whole tensor."""
        return self._files[key].read(key)

    def sample(self, key: str) -> bytes:
        """The first bytes of a tensor."""
        return self._files[key].sample(key)


def open_weights(path: Path) -> Weights:
    """Open a `.safetensors` or pickle file; raises FileFormatError with one sentence for anything else."""
    if not path.exists():
        raise FileFormatError(f"There is no file {path}; check the path.")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(GIT_LFS):
        raise FileFormatError(
            f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` or download it again."
        )
    if start.lstrip()[:1] == b"<":
        raise FileFormatError(f"{path} is a web page, not a checkpoint; the download failed, so download it again.")
    is_pickle = path.suffix.lower() in PICKLES or start[:4] == b"PK\x03\x04" or start[:2] == b"\x80\x02"
    # A safetensors file under a pickle's name begins with its header's length, then "{".
    return PickledWeights(path) if is_pickle and start[8:9] != b"{" else SafetensorsWeights(path)


def _unpickle(path: Path) -> dict[Any, Any]:
    if os.path.getsize(path) == 0:
        raise FileFormatError(f"{path} is empty; download or copy it again.")
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # not a zip file: torch < 1.6
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise FileFormatError(
                f"{path} holds Python objects besides tensors, which could run code and are not loaded; "
                "convert it to .safetensors with a program you trust."
            ) from error
        raise FileFormatError(f"{path} is not a checkpoint, or it is damaged ({reason}); download it again.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise FileFormatError(f"{path} is not a checkpoint, or it is cut short; download or copy it again.") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} holds a {type(content).__name__} instead of named tensors; choose another file.")
    return content


def content_key(weights: Weights, sources: Mapping[str, Source], *more: str) -> str:
    """A key of the content of some of a file's tensors: equal for a copy, another after fine-tuning.

    Hashes names, shapes and the first bytes of every tensor in `sources`, and the texts in `more`.
    """
    digest = hashlib.sha256()
    shapes = weights.shapes
    for key in sorted({source.key for source in sources.values()}):
        digest.update(f"{key} {shapes[key]} ".encode())
        digest.update(weights.sample(key))
    for text in more:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]
