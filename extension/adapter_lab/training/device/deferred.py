"""Values of a step read later, so that the host never waits for the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Label = TypeVar("Label")


@dataclass
class _Pending(Generic[Label]):
    values: Tensor
    arrived: Any  # torch.cuda.Event, or None where the values are on the host already
    label: Label


class DeferredValues(Generic[Label]):
    """A queue of small tensors on their way from the device, each with a label.

    A CUDA tensor is copied to pinned memory behind the work already queued, and handed out once that copy has happened:
    in practice one step late. Other accelerators have no such copy; their values are read every `interval` entries.
    """

    def __init__(self, interval: int = 10) -> None:
        self._interval = interval
        self._pending: deque[_Pending[Label]] = deque()

    def push(self, values: Tensor, label: Label) -> None:
        """Queue a detached tensor."""
        values = values.detach()
        arrived = None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            # The stream the copy is in, which is not that of another GPU that happens to be current.
            arrived.record(torch.cuda.current_stream(values.device))
            values = host
        self._pending.append(_Pending(values, arrived, label))

    def ready(self, wait: bool = False) -> list[tuple[list[Any], Label]]:
        """Take out, in order, every entry that has arrived, as nested lists of numbers; with `wait`, all of them."""
        out = []
        while self._pending and (wait or self._arrived(self._pending[0])):
            entry = self._pending.popleft()
            if entry.arrived is not None:
                entry.arrived.synchronize()
            out.append((entry.values.tolist(), entry.label))
        return out

    def _arrived(self, entry: _Pending[Label]) -> bool:
        if entry.arrived is not None:
            return entry.arrived.query()
        return entry.values.device.type == "cpu" or len(self._pending) > self._interval
