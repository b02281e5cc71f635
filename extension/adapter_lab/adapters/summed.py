"""A whole difference beside a low-rank or factored one: W' = W + dW + diff."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors
from adapter_lab.adapters.full import Full


@dataclass(eq=False)
class Summed(Adapter):
    """inner: LoRA, LoHa or LoKr, whose algorithm names the whole; rest: the difference."""

    algorithm: ClassVar[str] = "sum"
    suffixes: ClassVar[tuple[str, ...]] = ()
    uses_base: ClassVar[bool] = False

    inner: Adapter
    rest: Full

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return False  # `algorithms.adapter_from_tensors` wraps what comes with a difference

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> Summed:
        raise NotImplementedError("a sum wraps another adapter")

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.inner.fits(shape) and self.rest.fits(shape)

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "diff": True}

    def delta(self, base: Tensor) -> Tensor:
        return self.inner.delta(base).add_(self.rest.delta(base))

    def add_delta(self, weight: Tensor, strength: float) -> None:
        self.inner.add_delta(weight, strength)
        self.rest.add_delta(weight, strength)
