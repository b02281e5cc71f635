"""The safetensors format: a reader that trusts nothing in a file (writing.py has the writer).

Format: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}} with an optional
`__metadata__` of strings, padded with spaces to 8 bytes, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from adapter_lab import jsonio
from adapter_lab.errors import FileFormatError

# Number formats by their names in the file, in the order that `writing.layout_order` needs.
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
DTYPE_BYTES = {name: torch.empty(0, dtype=dtype).element_size() for name, dtype in DTYPES.items()}

# A real SDXL checkpoint's header is 0.3 MB; tag frequencies in an adapter's metadata reach a few MB. Parsed JSON takes
# several times its size, so this bound also bounds the memory a bad file can claim.
LARGEST_HEADER = 32 * 2**20
LONGEST_NAME = 1000  # of a tensor; real ones have up to about 150 characters, and messages repeat them
CONTROL_CHARACTER = re.compile("[\x00-\x1f]")
COPY_CHUNK = 8 * 2**20
PICKLE = "a pickle file, which could run code when read; convert it to .safetensors first"
WEB_PAGE = "a web page, as a server sends it to who is not logged in; download the file again in a browser"
# What other files begin with, in lower case, and what they are.
BEGINNINGS = (
    (b"version ", "a pointer of Git LFS in the place of the file; download the file itself, or run `git lfs pull`"),
    (b"<!doctyp", WEB_PAGE),
    (b"<html", WEB_PAGE),
    (b"<?xml", WEB_PAGE),
    (b"gguf", "a GGUF file, a checkpoint in few bits; adapters are .safetensors files"),
    (b"\x80\x02", PICKLE),
    (b"pk\x03\x04", PICKLE),
    (b"\x89png", "an image; give the adapter file itself"),
    (b"\xff\xd8\xff", "an image; give the adapter file itself"),
    (b"{", "a text of JSON, perhaps what a server said in the place of the file; download it again"),
)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its name there, shape, dtype, and where its bytes lie (absolute offsets)."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    end: int

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file, of which only the header is read until a tensor is asked for."""

    def __init__(self, path: Path, tensors: dict[str, TensorInfo], metadata: dict[str, str], data_start: int) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self.data_start = data_start

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TensorFile:
        """Read and check a file's header; raises FileFormatError with one sentence for anything malformed."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header, data_start = _read_header(file, path, size)
        except FileNotFoundError:
            raise FileFormatError(f"There is no file {path}.") from None
        except IsADirectoryError:
            raise FileFormatError(f"{path} is a folder, not a .safetensors file.") from None
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror}.") from error
        metadata = _metadata(header, path)
        return cls(path, _tensor_infos(header, path, data_start, size), metadata, data_start)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return max((info.end for info in self.tensors.values()), default=self.data_start)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        return {key: info.shape for key, info in self.tensors.items()}

    def read(self, key: str, scratch: Scratch | None = None) -> Tensor:
        """The whole tensor `key`, on the CPU, in the file's dtype; in the memory of `scratch` if given."""
        with self.path.open("rb") as file:
            return self._read(file, self.tensors[key], scratch)

    def read_many(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Several tensors by name, the file opened once."""
        found: dict[str, Tensor] = {}
        with self.path.open("rb") as file:
            for key in keys:
                found[key] = self._read(file, self.tensors[key])
        return found

    def chunks(self, key: str) -> Iterator[bytes]:
        """The raw bytes of tensor `key`, a few MB at a time."""
        info = self.tensors[key]
        with self.path.open("rb") as file:
            file.seek(info.start)
            left = info.end - info.start
            while left:
                chunk = file.read(min(left, COPY_CHUNK))
                if not chunk:
                    raise FileFormatError(f"{self.path} is cut short: the bytes of {key} are missing.")
                yield chunk
                left -= len(chunk)

    def _read(self, file: BinaryIO, info: TensorInfo, scratch: Scratch | None = None) -> Tensor:
        tensor = (scratch or Scratch()).empty(info.shape, info.dtype)
        raw = tensor.reshape(-1).view(torch.uint8).numpy().data
        file.seek(info.start)
        if file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
            raise FileFormatError(f"{self.path} is cut short: the bytes of {info.key} are missing.")
        return tensor


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset at which the tensors' bytes begin."""
    if size == 0:
        raise FileFormatError(f"{path} is empty.")
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    text = file.read(1) if length <= size - 8 else b""
    if text != b"{":
        pickled = PICKLE if path.suffix.lower() in PICKLES else ""
        what = next((what for beginning, what in BEGINNINGS if start.lower().startswith(beginning)), pickled)
        if what:
            raise FileFormatError(f"{path} is {what}.")
        raise FileFormatError(f"{path} is not a .safetensors file, or it was cut short within its header.")
    if length > LARGEST_HEADER:
        raise FileFormatError(f"{path} has a header of {length // 2**20} MiB, which no real adapter or checkpoint has.")
    text += file.read(length - 1)
    try:
        header = jsonio.parsed(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise FileFormatError(f"{path} is not a .safetensors file: its header is not valid JSON ({error}).") from None
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _metadata(header: dict[str, Any], path: Path) -> dict[str, str]:
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileFormatError(f"{path} has malformed metadata: it must map names to texts.")
    return metadata


def _tensor_infos(header: dict[str, Any], path: Path, data_start: int, size: int) -> dict[str, TensorInfo]:
    """Checked descriptions of all tensors: known dtypes, sane shapes, offsets that tile the file exactly."""
    infos: dict[str, TensorInfo] = {}
    for key, entry in header.items():
        infos[key] = _tensor_info(key, entry, path, data_start)
    end = data_start
    for info in sorted(infos.values(), key=lambda info: (info.start, info.end)):
        if info.start < end:
            raise FileFormatError(f"{path} is damaged: tensor {info.key} overlaps the one before it.")
        if info.start > end:
            raise FileFormatError(f"{path} is damaged: there is a gap before tensor {info.key}.")
        end = info.end
    if end > size:
        raise FileFormatError(
            f"{path} is cut short: it should have {end} bytes but has {size}; download or copy it again."
        )
    if end < size:
        raise FileFormatError(f"{path} is damaged: {size - end} bytes follow its last tensor.")
    return infos


def _tensor_info(key: str, entry: Any, path: Path, data_start: int) -> TensorInfo:
    if len(key) > LONGEST_NAME or CONTROL_CHARACTER.search(key):
        raise FileFormatError(f"{path} is damaged: {key[:60]!r} is no name of a tensor.")
    shape: Any = entry.get("shape") if isinstance(entry, dict) else None
    offsets: Any = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _natural_numbers(shape) or not _natural_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileFormatError(f"{path} is damaged: the header's entry for {key!r} is malformed.")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileFormatError(f"{path} holds tensor {key} in the unknown number format {dtype!r}.")
    if math.prod(shape) * DTYPE_BYTES[dtype] != offsets[1] - offsets[0]:
        raise FileFormatError(
            f"{path} is damaged: tensor {key} of shape {shape} does not have as many bytes as it should."
        )
    return TensorInfo(key, tuple(shape), DTYPES[dtype], data_start + offsets[0], data_start + offsets[1])


def _natural_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for number in value:  # noqa: SIM110  this runs for every tensor of every file in a folder of hundreds
        if type(number) is not int or not 0 <= number < 2**62:
            return False
    return True


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity."""
    return math.isfinite(largest(tensor))


def largest(tensor: Tensor) -> float:
    """The largest absolute value of a floating-point tensor; NaN if it holds one, 0 if it is empty."""
    if tensor.numel() == 0:
        return 0.0
    # NaN spreads into the extremes; this is one pass without a copy, where isfinite() makes several.
    try:
        extremes = torch.aminmax(tensor)
    except RuntimeError:  # no minimum for fp8, nor in older torch for fp16 on a CPU
        extremes = torch.aminmax(tensor.to(torch.float32))
    low, high = float(extremes.min), float(extremes.max)
    return math.nan if math.isnan(low) or math.isnan(high) else max(-low, high)


class Scratch:
    """Memory used again for one tensor after another: fresh pages cost more than the arithmetic done in them."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; the one given before is overwritten."""
        size = math.prod(shape) * DTYPE_BYTES[DTYPE_NAMES[dtype]]
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        return self._buffer[:size].view(dtype).reshape(shape)
