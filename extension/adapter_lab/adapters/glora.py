"""GLoRA: a low-rank update that also mixes the inputs of the base weight. Chavan et al. 2023, LyCORIS.

dW = scale * (W a1 a2 + b1 b2). LyCORIS before 4 wrote the names the other way round: dW = scale * (W a2 a1 + b2 b1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, row_blocks
from adapter_lab.adapters.lora import tucker_rows


@dataclass(eq=False)
class GLoRA(Adapter):
    """a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in * kernel); with core bm (r, r, kh, kw), b2 is (r, in)."""

    algorithm: ClassVar[str] = "glora"
    suffixes: ClassVar[tuple[str, ...]] = ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight")
    shared: ClassVar[tuple[str, ...]] = (*Adapter.shared, "scalar")

    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor
    bm: Tensor | None
    alpha: float | None
    scalar: float = 1.0
    rank_stabilised: bool = False

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "a1.weight" in shapes or "b1.weight" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> GLoRA:
        a1, a2, b1, b2 = (tensors[name].flatten(1) for name in cls.suffixes[:4])
        alpha = float(tensors["alpha"]) if "alpha" in tensors else None
        scalar = float(tensors["scalar"]) if "scalar" in tensors else 1.0
        if "bm.weight" in tensors and tensors["bm.weight"].dim() != 4:
            raise ValueError(f"bm is {list(tensors['bm.weight'].shape)}")
        return cls(a1, a2, b1, b2, tensors.get("bm.weight"), alpha, scalar, options.lycoris_rs_lora)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.oriented(shape) is not None

    def describe(self) -> dict[str, Any]:
        rank = min(self.a1.shape)
        return {"dim": rank, "alpha": rank if self.alpha is None else self.alpha, "tucker": self.bm is not None}

    def delta(self, base: Tensor) -> Tensor:
        one = self._fitting(base)
        up, down = one._low_rank(base)
        return ((one._mixed(base) + up @ down) * one.scale).reshape(base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if not weight.is_contiguous():
            super().add_delta(weight, strength)
            return
        one = self._fitting(weight)
        up, down = one._low_rank(weight)
        rows = weight.view(weight.shape[0], -1)
        for block in row_blocks(weight):
            rows[block].add_(one._mixed(weight[block]), alpha=one.scale * strength)
        rows.addmm_(up, down, alpha=one.scale * strength)

    def _mixed(self, rows: Tensor) -> Tensor:
        """W a1 a2 for some rows of W: (rows, in * kernel)."""
        # The kernel before the inputs, so that a1 and a2 act on the last axis.
        inputs_last = rows.flatten(2).transpose(1, 2) if rows.dim() > 2 else rows
        mixed = inputs_last @ like(self.a1, rows) @ like(self.a2, rows)
        return (mixed.transpose(1, 2) if rows.dim() > 2 else mixed).reshape(rows.shape[0], -1)

    def _low_rank(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """b1 and b2 as matrices (out, r), (r, in * kernel)."""
        down = like(self.b2, base)
        return like(self.b1, base), down if self.bm is None else tucker_rows(like(self.bm, base), down)

    def _fitting(self, base: Tensor) -> GLoRA:
        one = self.oriented(tuple(base.shape))
        if one is None:
            raise ValueError(f"its factors do not fit a weight of shape {tuple(base.shape)}")
        return one

    @property
    def scale(self) -> float:
        """What the sum of both products is multiplied by."""
        rank = self.a2.shape[0]
        alpha = self.alpha if self.alpha is not None else rank
        return self.scalar * alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def oriented(self, shape: tuple[int, ...]) -> GLoRA | None:
        """Itself with the names of LyCORIS 4, whichever naming the file has; None if neither fits `shape`.

        Only where in, out and rank are all equal could both fit; the newer naming is then taken.
        """
        if self._fits_as_named(shape):
            return self
        swapped = replace(self, a1=self.a2, a2=self.a1, b1=self.b2, b2=self.b1)
        return swapped if swapped._fits_as_named(shape) else None

    def _fits_as_named(self, shape: tuple[int, ...]) -> bool:
        if len(shape) < 2:
            return False
        kernel = 1 if self.bm is None else self.bm[0, 0].numel()
        return (
            (self.bm is None or tuple(self.bm.shape[:2]) == (self.b1.shape[1], self.b2.shape[0]))
            and self.a1.shape[0] == self.a2.shape[1] == shape[1]
            and self.a1.shape[1] == self.a2.shape[0]
            and self.b1.shape[0] == shape[0]
            and self.b1.shape[1] == self.b2.shape[0]
            and self.b2.shape[1] * kernel == math.prod(shape[1:])
        )
