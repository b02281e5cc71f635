"""Full difference: W' = W + diff, b' = b + diff_b, of linear layers and convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import MAGNITUDES, Adapter, FileOptions, Shapes, Tensors, like, row_blocks


@dataclass(eq=False)
class Full(Adapter):
    """diff: the shape of W, or None where only the bias was trained."""

    algorithm: ClassVar[str] = "full"
    uses_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = ("diff",)

    diff: Tensor | None

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "diff" in shapes or ("diff_b" in shapes and not {"w_norm", "set_weight"} & set(shapes))

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        return super().uses(shapes) - (set() if "diff" in shapes else {*MAGNITUDES})

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> Full:
        return cls(tensors.get("diff"))

    def fits(self, shape: tuple[int, ...]) -> bool:
        if self.diff is None:
            return self.bias_delta is not None and self.bias_delta.numel() == shape[0]
        return self.diff.numel() == math.prod(shape) and (self.diff.dim() == 0 or self.diff.shape[0] == shape[0])

    def describe(self) -> dict[str, Any]:
        return {"bias": self.bias_delta is not None}

    def delta(self, base: Tensor) -> Tensor:
        if self.diff is None:
            return torch.zeros_like(base)
        return like(self.diff, base).reshape(base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if self.diff is None:
            return
        diff = self.diff.reshape(weight.shape)
        for block in row_blocks(weight):
            weight[block].add_(like(diff[block], weight), alpha=strength)
