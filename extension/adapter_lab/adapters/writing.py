"""Writing safetensors files: the exact size beforehand, hashes, and an atomic write.

The layout is the safetensors library's own, byte for byte, so a predicted size holds for either writer.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab import files
from adapter_lab.adapters.tensors import DTYPE_BYTES, DTYPE_NAMES, DTYPES

RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}

Layout = Mapping[str, "tuple[tuple[int, ...], torch.dtype]"]


def layout_order(layout: Layout) -> list[str]:
    """Names in the order in which the safetensors library lays tensors out: widest dtype first, then by name."""
    return sorted(layout, key=lambda key: (-RANK[layout[key][1]], key.encode()))


def header_bytes(layout: Layout, metadata: Mapping[str, str] | None) -> bytes:
    """The length field and header of a file with these tensors, exactly as `write_tensors` writes them."""
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = dict(metadata)
    offset = 0
    for key in layout_order(layout):
        shape, dtype = layout[key]
        end = offset + math.prod(shape) * DTYPE_BYTES[DTYPE_NAMES[dtype]]
        header[key] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def data_bytes(layout: Layout) -> int:
    """Bytes of the tensors alone."""
    return sum(math.prod(shape) * DTYPE_BYTES[DTYPE_NAMES[dtype]] for shape, dtype in layout.values())


def layout_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each tensor."""
    return {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}


def raw_bytes(tensor: Tensor) -> Any:
    """A tensor's bytes as they stand in a file: a buffer that shares the memory of a contiguous CPU tensor."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the data section that `write_tensors` writes for these tensors."""
    digest = hashlib.sha256()
    for key in layout_order(layout_of(tensors)):
        digest.update(raw_bytes(tensors[key]))
    return digest.hexdigest()


def write_tensors(path: Path, layout: Layout, metadata: Mapping[str, str] | None, read: Callable[[str], Any]) -> int:
    """Write a file atomically, tensor by tensor, and return its size in bytes.

    `read(key)` gives the bytes of a tensor, or an iterable of chunks of them, in the order of the file.
    """

    def chunks() -> Iterator[Any]:
        yield header_bytes(layout, metadata)
        for key in layout_order(layout):
            found = read(key)
            if isinstance(found, (bytes, bytearray, memoryview)):
                yield found
            else:
                yield from found

    return write_atomically(path, chunks())


def write_atomically(path: Path, chunks: Iterable[Any]) -> int:
    """Write `chunks` through a temporary file that is on the disk before it is renamed; returns the size in bytes.

    Raises WriteError when the disk is full or the folder cannot be written to; an older file then stays.
    """
    files.make_folder(path.parent)
    size = 0
    with files.replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
    return size
