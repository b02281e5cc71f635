"""Difference of a normalisation layer: weight + w_norm, bias + b_norm (LayerNorm, GroupNorm). LyCORIS's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like


@dataclass(eq=False)
class Norm(Adapter):
    """w_norm, b_norm: (n,)."""

    algorithm: ClassVar[str] = "norm"
    uses_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = ("w_norm", "b_norm")

    w_norm: Tensor
    bias_delta: Tensor | None = None

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "w_norm" in shapes

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        return super().uses(shapes) - ({"diff_b"} if "b_norm" in shapes else set())

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> Norm:
        return cls(tensors["w_norm"], tensors.get("b_norm"))

    def fits(self, shape: tuple[int, ...]) -> bool:
        return tuple(shape) == (self.w_norm.numel(),)

    def describe(self) -> dict[str, Any]:
        return {"bias": self.bias_delta is not None}

    def delta(self, base: Tensor) -> Tensor:
        return like(self.w_norm, base).reshape(base.shape)
