"""IA3: one learned gain per output or input channel. Liu et al. 2022, LyCORIS.

W' = W * (1 + w) along the axis `on_input` names. The bias keeps its value, as in LyCORIS's rebuilt forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like


@dataclass(eq=False)
class IA3(Adapter):
    """gains: (n,) in the file also (1, n, 1, 1); on_input: whether n counts inputs."""

    algorithm: ClassVar[str] = "ia3"
    suffixes: ClassVar[tuple[str, ...]] = ("weight", "on_input")

    gains: Tensor
    on_input: bool

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "weight" in shapes and "on_input" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> IA3:
        return cls(tensors["weight"].flatten(), bool(tensors["on_input"].item()))

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) >= 2 and shape[int(self.on_input)] == self.gains.numel()

    def describe(self) -> dict[str, Any]:
        return {"train_on_input": self.on_input}

    def delta(self, base: Tensor) -> Tensor:
        return base * self._gains(base)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        weight.addcmul_(weight, self._gains(weight), value=strength)

    def _gains(self, base: Tensor) -> Tensor:
        """w, broadcastable to W."""
        shape = [1] * base.dim()
        shape[int(self.on_input)] = -1
        return like(self.gains, base).reshape(shape)
