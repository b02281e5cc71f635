"""LoRA and LoCon (LoRA on convolutions), plain and Tucker-decomposed. Hu et al. 2021, LyCORIS (Yeh et al. 2023).

dW = scale * up down, or with a Tucker core mid: dW[o, i, h, w] = scale * sum_pq mid[p, q, h, w] up[o, p] down[q, i].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, same_size, scale_of


@dataclass(eq=False)
class LoRA(Adapter):
    """up: (out, r[, 1, 1]); down: (r, in[, kh, kw]), with mid (r, in[, 1, 1]); mid: (r, r, kh, kw) or None."""

    algorithm: ClassVar[str] = "lora"
    uses_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = ("lora_up.weight", "lora_down.weight", "lora_mid.weight")
    shared: ClassVar[tuple[str, ...]] = (*Adapter.shared, "scalar")

    up: Tensor
    down: Tensor
    mid: Tensor | None
    scale: float

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "lora_up.weight" in shapes or "lora_down.weight" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> LoRA:
        up, down, mid = tensors["lora_up.weight"], tensors["lora_down.weight"], tensors.get("lora_mid.weight")
        rank = down.shape[0]
        if down.dim() < 2 or up[0].numel() != rank:
            raise ValueError(f"lora_up is {list(up.shape)} and lora_down {list(down.shape)}")
        if mid is not None and (mid.dim() != 4 or tuple(mid.shape[:2]) != (rank, rank)):
            raise ValueError(f"lora_mid is {list(mid.shape)} for rank {rank}")
        return cls(up, down, mid, scale_of(tensors, rank))

    def fits(self, shape: tuple[int, ...]) -> bool:
        kernel = 1 if self.mid is None else self.mid[0, 0].numel()
        return same_size(shape, self.up.shape[0], self.down[0].numel() * kernel)

    def describe(self) -> dict[str, Any]:
        rank = self.down.shape[0]
        return {"dim": rank, "alpha": self.scale * rank, "tucker": self.mid is not None}

    def delta(self, base: Tensor) -> Tensor:
        up = like(self.up, base).flatten(1) * self.scale
        return low_rank(up, like(self.down, base), None if self.mid is None else like(self.mid, base), base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if not weight.is_contiguous():
            super().add_delta(weight, strength)
            return
        # Without any further in x out tensor.
        up, down = like(self.up, weight).flatten(1), like(self.down, weight).flatten(1)
        if self.mid is not None:
            down = tucker_rows(like(self.mid, weight), down)
        weight.view(weight.shape[0], -1).addmm_(up, down, alpha=strength * self.scale)


def low_rank(up: Tensor, down: Tensor, mid: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """up down, reshaped to `shape`; with a core mid (r, r, kh, kw) its Tucker product. up: (out, r), down: (r, ...)."""
    if mid is None:
        return (up @ down.flatten(1)).reshape(shape)
    return tucker(mid, up, down.flatten(1)).reshape(shape)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """core x_1 up x_2 down: core (p, q, kh, kw), up (out, p), down (q, in) -> (out, in, kh, kw)."""
    # Two steps: the rank axes stay small, and only the result is in x out.
    return (up @ tucker_rows(core, down)).reshape(up.shape[0], down.shape[1], *core.shape[2:])


def tucker_rows(core: Tensor, down: Tensor) -> Tensor:
    """core x_2 down as a matrix (p, in * kernel): core (p, q, kh, kw), down (q, in)."""
    return torch.einsum("pqk,qi->pik", core.flatten(2), down).reshape(core.shape[0], -1)
