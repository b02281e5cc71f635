"""Counts the tensor storage that is alive while code runs, real or fake, by category, and what it was at the peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

# CUDA's caching allocator hands out multiples of this.
BLOCK = 512
# Bytes an operator needs for itself while it runs, from its arguments and result.
Workspace = Callable[[tuple[Any, ...], Any], int]


class LiveMemory(TorchDispatchMode):
    """While active, every new tensor storage counts until it dies, under the label of the time it was made.

    Sizes are in bytes, rounded up to `BLOCK`. `workspaces` adds what named operators need while they run.
    """

    def __init__(self, label: str = "activations", workspaces: Mapping[str, Workspace] | None = None) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.peak_total = 0
        self._total = 0
        self._label = label
        self._workspaces = workspaces or {}
        self._storages: dict[int, tuple[Any, int, str]] = {}

    @property
    def total(self) -> int:
        """Bytes alive now."""
        return self._total

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Inside, new storage counts under `label`."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    def adopt(self, label: str, tensors: Iterable[Tensor]) -> None:
        """Count storages that were made before, or give those counted already another label."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            found = self._storages.get(storage._cdata)
            if found is None:
                self._count(storage, label)
            else:
                reference, size, old = found
                self._storages[storage._cdata] = reference, size, label
                self.live[old] -= size
                self.live[label] += size

    def reserve(self, label: str, size: int) -> None:
        """Count `size` bytes that are no tensor here, such as an optimiser's state; a negative size gives them back."""
        self.live[label] += size
        self._grow(size)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak, self.peak_total = Counter(self.live), self._total

    def _count(self, storage: torch.UntypedStorage, label: str) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK

        def died(_: Any) -> None:
            _, size, label = self._storages.pop(key)
            self.live[label] -= size
            self._total -= size

        self._storages[key] = weakref.ref(storage, died), size, label
        self.live[label] += size
        self._grow(size)

    def _grow(self, size: int) -> None:
        self._total += size
        if self._total > self.peak_total:
            self.peak, self.peak_total = Counter(self.live), self._total

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # the most frequent of all calls, answered without a second dispatch
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._see(result)
        elif isinstance(result, (tuple, list)):
            for entry in result:
                if isinstance(entry, Tensor):
                    self._see(entry)
        if self._workspaces:
            workspace = self._workspaces.get(function._schema.name)
            if workspace is not None:
                size = workspace(args, result)
                self.reserve("workspace", size)
                self.reserve("workspace", -size)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._count(storage, self._label)
