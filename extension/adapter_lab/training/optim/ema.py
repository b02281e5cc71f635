"""The moving average of the trained weights (EMA), which is what is saved where it is on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class MovingAverage:
    """Exponential moving average of parameters; its memory is short at first, so that early files are not the start."""

    def __init__(self, parameters: Iterable[Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in, with weight 1 - min(decay, (1 + n) / (10 + n)) after n updates."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.values, [*self.parameters], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the average; after it, exactly what they held."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averages and their count."""
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.updates = state["updates"]
        self.values = [
            value.to(parameter.device, copy=True) for value, parameter in zip(state["values"], self.parameters)
        ]
