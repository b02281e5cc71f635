"""A store of tensors on disk, or in memory, found by what they were computed from.

One safetensors file per entry: latents and text outputs take 0.1 to 1 MB each, far above a disk block, so shards would
save nothing, while a file can be replaced atomically and several runs can share a folder. Entries lie in 256 folders.
Each file names its whole key and a checksum; one that does not match, or holds values that are not finite, counts as
missing and is made again. Files are not fsynced: what a power cut truncates fails that check.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapter_lab import files, jsonio
from adapter_lab.adapters.tensors import is_finite
from adapter_lab.errors import DatasetError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAY = 24 * 3600.0
LEAST_MEMORY = 512 << 20  # bytes left free when entries are kept in memory


class TensorStore:
    """Entries of tensors by key text, in files of `folder` or, when it is None or cannot be written, in memory.

    `take_remarks` gives a sentence for everything a person should know: entries that were broken, a full disk.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._remarks: list[str] = []
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._writable = folder is not None
        if folder is not None:
            _remove_old_partials(folder / "partial")

    def path(self, key: str) -> Path | None:
        """The file of an entry, whether it exists or not; None in memory."""
        if self.folder is None:
            return None
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry; None when it is missing, broken or not finite."""
        if key in self._memory:
            return self._memory[key]
        path = self.path(key)
        if path is None:
            return None
        try:
            return _parse(path.read_bytes(), key)
        except (OSError, _BrokenEntry):
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry, on a full or read-only disk to memory; raises DatasetError when that is short as well."""
        # Copies: a view would keep its whole batch in memory, and safetensors refuses tensors that share any.
        entry = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        path = self.path(key)
        if path is not None and self._writable:
            try:
                self._write(path, _serialise(entry, key))
                return
            except OSError as error:
                self._writable = False
                self._remarks.append(self._unwritable(error))
        if (available := _available_memory()) is not None and available < LEAST_MEMORY:
            remedy = "set dataset.cache_latents to `disk` or `off`"
            if path is not None:
                remedy = (
                    f"the cache cannot be written to {self.folder} either; make room there or set dataset.cache_folder"
                )
            raise DatasetError(f"Less than {LEAST_MEMORY >> 20} MiB of memory is left for encoded images; {remedy}.")
        self._memory[key] = entry

    def take_remarks(self) -> list[str]:
        """The remarks since the last call."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def missing(self, keys: Iterable[str], threads: int = 4) -> list[str]:
        """The keys without a whole entry, each once and in order; broken entries are counted in the remarks."""
        wanted = list(dict.fromkeys(keys))
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            states = list(pool.map(self._state, wanted))
        broken = states.count("broken")
        if broken:
            self._remarks.append(
                f"{broken} broken {'entry' if broken == 1 else 'entries'} of the cache in {self.folder} "
                f"{'is' if broken == 1 else 'are'} made again."
            )
        return [key for key, state in zip(wanted, states) if state != "whole"]

    def _state(self, key: str) -> str:
        if key in self._memory:
            return "whole"
        path = self.path(key)
        if path is None:
            return "missing"
        try:
            _parse(path.read_bytes(), key)
        except FileNotFoundError:
            return "missing"
        except (OSError, _BrokenEntry):
            return "broken"
        return "whole"

    def _write(self, path: Path, content: bytes) -> None:
        assert self.folder is not None
        partial = self.folder / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        with files.replacing(path, sync=False, at=partial) as file:
            file.write(content)

    def _unwritable(self, error: OSError) -> str:
        why = "the disk is full" if error.errno in _FULL else error.strerror or str(error)
        return (
            f"The cache cannot be written to {self.folder} ({why}), so the rest is kept in memory for this run; "
            "make room there or set dataset.cache_folder to another disk."
        )


class _BrokenEntry(Exception):
    """A cache file that is truncated, damaged or belongs to another key."""


def _serialise(tensors: Mapping[str, Tensor], key: str) -> bytes:
    return safetensors.torch.save(dict(tensors), {"key": key, "crc32": _checksum(tensors)})


def _parse(content: bytes, key: str) -> dict[str, Tensor]:
    try:
        (length,) = struct.unpack_from("<Q", content)
        metadata = jsonio.parsed(content[8 : 8 + length])["__metadata__"]
        tensors = safetensors.torch.load(content)
        whole = metadata["key"] == key and metadata["crc32"] == _checksum(tensors)
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RuntimeError, SafetensorError) as error:
        raise _BrokenEntry(str(error)) from error
    if not whole:
        raise _BrokenEntry("the key or the checksum differs")
    if not all(is_finite(tensor) for tensor in tensors.values()):  # older versions kept what a damaged VAE gave
        raise _BrokenEntry("values that are not finite")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode("utf-8"), value)
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"


def _available_memory() -> int | None:
    """Bytes of memory that can still be had; None where psutil (part of accelerate's needs) is missing."""
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _remove_old_partials(folder: Path) -> None:
    """Remove what runs that were killed while writing left behind; nothing in this folder lives for a day."""
    files.remove_leftovers(folder)
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink()
