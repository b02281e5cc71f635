"""Adapter files read and parsed once while they stay the same on disk, the least recently used given up first."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from adapter_lab.adapters.base import Adapter
from adapter_lab.adapters.file import AdapterFile, ModuleError, NoAdapterError
from adapter_lab.adapters.matching import Matched, match
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import FileFormatError
from adapter_lab.hosts.loading.base_model import BaseModel
from adapter_lab.hosts.loading.plan import Plan, make_plan

# Numbers beyond this make the result worth a look, since half precision ends at 65504. Trained factors are far smaller.
WILD = 10.0
# A parsed header takes several times its bytes.
HEADER_FACTOR = 5
MOST_FILES = 512

Signature = tuple[int, int]  # size in bytes, modification time in ns


def signature_of(path: str) -> Signature | None:
    """What tells one version of a file from another; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@dataclass
class Weights:
    """The modules of a file that was read as a whole: adapters by name, or why there is none."""

    file: AdapterFile  # in memory
    adapters: dict[str, Adapter] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    wild: set[str] = field(default_factory=set)  # names of modules with very large numbers


class CachedFile:
    """One version of one file. `error` says why it is none we can use, else `file` is its header."""

    def __init__(self, path: str, signature: Signature | None) -> None:
        self.path = path
        self.signature = signature
        self.error: FileFormatError | None = None
        self.well_formed = False  # a safetensors file, whatever is in it
        self.file: AdapterFile | None = None
        self.is_the_hosts = False  # the web UI loads it: its bytes need not stay here
        self.ahead = False  # read for a generation that has not begun
        self.loads = 0  # times the whole file was read
        self._weights: Weights | None = None
        self._reading = threading.Lock()
        self._matched: weakref.WeakKeyDictionary[BaseModel, Matched | FileFormatError] = weakref.WeakKeyDictionary()
        self._remarks: weakref.WeakKeyDictionary[BaseModel, tuple[bool, str]] = weakref.WeakKeyDictionary()
        self._plans: weakref.WeakKeyDictionary[BaseModel, dict[int | None, Plan]] = weakref.WeakKeyDictionary()
        self._open()

    def _open(self) -> None:
        try:
            tensors = TensorFile.open(self.path)
            self.well_formed = bool(tensors.tensors)
            self.file = AdapterFile(tensors)
        except FileFormatError as error:
            self.error = error

    @property
    def foreign(self) -> bool:
        """Whether it is a sound file of something else, which the web UI may know."""
        return self.well_formed and isinstance(self.error, NoAdapterError)

    @property
    def bytes(self) -> int:
        """Roughly what it holds in memory."""
        if self.file is None:
            return 0
        header = self.file.file.data_start
        return header * HEADER_FACTOR + (self.file.file.size - header if self._weights else 0)

    def weights(self) -> Weights:
        """All modules, the whole file read at once; raises FileFormatError if it changes while it is read."""
        with self._reading:  # who comes while it is read ahead waits for that
            if self._weights is None:
                in_memory = self._file().in_memory()
                if signature_of(self.path) != self.signature:
                    raise FileFormatError(f"{self.path} changed while it was read; generate again.")
                self.loads += 1
                self._weights = _weights_of(in_memory)
            return self._weights

    def read_ahead(self) -> None:
        """Read the whole file for the next generation, from any thread; raises FileFormatError as `weights` does."""
        self.weights()
        self.ahead = True

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key, from memory, not to be written to; raises FileFormatError as `weights` does."""
        file = self.weights().file.file
        return file.read_many(file.tensors)

    def forget_weights(self) -> None:
        """Give the file's bytes back; what was found out about them stays."""
        self._weights = None
        self._plans.clear()

    @cached_property
    def sound(self) -> bool:
        """Whether every module holds finite numbers that belong together; reads the whole file."""
        return not self.weights().broken

    def matched(self, base: BaseModel) -> Matched:
        """Which of the base's weights its modules change; raises FileFormatError if it is no adapter for this base."""
        found = self._matched.get(base)
        if found is None:
            file = self._file()
            try:
                spread, remark = base.spread(file)
                found = match(file, base.table, base.family, base.name, spread)
                self._remarks[base] = (bool(spread), remark)
            except FileFormatError as error:
                found = error
            self._matched[base] = found
        if isinstance(found, FileFormatError):
            raise found
        return found

    def is_spread(self, base: BaseModel) -> bool:
        """Whether it is for a smaller variant of the base, whose weights its modules change more of than they name."""
        self.matched(base)
        return self._remarks[base][0]

    def remark(self, base: BaseModel) -> str:
        """What is to be said of how it was matched, beside what was not; empty as a rule."""
        self.matched(base)
        return self._remarks[base][1]

    def plan(self, base: BaseModel, dyn: int | None = None) -> Plan:
        """Its patches for a base; raises FileFormatError if there are none."""
        matched, weights = self.matched(base), self.weights()
        plans = self._plans.setdefault(base, {})
        if dyn not in plans:
            plans[dyn] = make_plan(self._file(), matched, weights.adapters, weights.wild, dyn)
        if not plans[dyn].patches:
            reason = next(iter(weights.broken.values()), "it has none that fit")
            raise FileFormatError(f"{self.path} cannot be used: none of its modules could be read, as {reason}.")
        return plans[dyn]

    def reasons(self, base: BaseModel) -> dict[str, str]:
        """Why modules and tensors of it are not in its plan."""
        matched = self.matched(base)
        return {**matched.not_applied, **self.weights().broken, **self._file().unknown}

    def _file(self) -> AdapterFile:
        if self.file is None:
            assert self.error is not None
            raise self.error
        return self.file


def _weights_of(file: AdapterFile) -> Weights:
    found = Weights(file)
    for name in file.modules:
        try:
            adapter = found.adapters[name] = file.load(name)
        except ModuleError as error:
            found.broken[name] = error.reason
            continue
        factors = (info.key for suffix, info in file.modules[name].items() if suffix != "alpha")
        if any(file.largest.get(key, 0.0) > WILD for key in factors) or _gain(adapter) > WILD:
            found.wild.add(name)
    return found


def _gain(adapter: Adapter) -> float:
    """How much larger than its factors its scale makes the difference."""
    return abs(getattr(adapter, "scale", 1.0))


class AdapterCache:
    """Files by path, at most `limit()` bytes of them beside those in use. May be used from several threads."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self.limit = limit
        self.reads = 0  # headers read, for tests
        self._files: OrderedDict[str, CachedFile] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._files)

    def get(self, path: str) -> CachedFile:
        """The file as it is on disk now."""
        signature = signature_of(path)
        with self._lock:
            found = self._files.get(path)
            if found is None or found.signature != signature:
                found = self._files[path] = CachedFile(path, signature)
                self.reads += 1
            self._files.move_to_end(path)
            return found

    def trim(self, in_use: Iterable[str]) -> None:
        """Give up what is over the limit, the least recently used first, but none of the files `in_use`."""
        kept = set(in_use)
        with self._lock:
            for file in self._files.values():
                if file.is_the_hosts and not (file.ahead and file.path in kept):
                    file.forget_weights()
                file.ahead = file.ahead and file.path not in kept
            total = sum(file.bytes for file in self._files.values())
            for path in [path for path in self._files if path not in kept]:
                if total <= self.limit() and len(self._files) <= MOST_FILES:
                    return
                total -= self._files.pop(path).bytes

    def clear(self) -> None:
        """Give everything up."""
        with self._lock:
            self._files.clear()
