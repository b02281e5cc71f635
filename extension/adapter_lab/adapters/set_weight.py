"""A weight as a whole, which takes the place of the base's: W' = set_weight. ComfyUI's name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like


@dataclass(eq=False)
class SetWeight(Adapter):
    """value: the shape of W."""

    algorithm: ClassVar[str] = "set"
    suffixes: ClassVar[tuple[str, ...]] = ("set_weight",)

    value: Tensor

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "set_weight" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> SetWeight:
        return cls(tensors["set_weight"])

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.value.numel() == math.prod(shape) and self.value.dim() > 0 and self.value.shape[0] == shape[0]

    def describe(self) -> dict[str, Any]:
        return {"bias": self.bias_delta is not None}

    def weight(self, base: Tensor) -> Tensor:
        return like(self.value, base).reshape(base.shape)
