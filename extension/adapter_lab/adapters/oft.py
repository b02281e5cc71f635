"""Block-diagonal orthogonal fine-tuning: diag-OFT of LyCORIS and kohya (output side). Qiu et al. 2023.

W' = rescale * R^T W with R = (I + Q)(I - Q)^-1 (Cayley), Q = blocks - blocks^T, one block per group of output channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, row_blocks


@dataclass(eq=False)
class DiagOFT(Adapter):
    """blocks (n, s, s) with out = n s; rescale (out, 1[, 1, 1]) or None; bound: largest norm of all Q, 0 for none.

    The file's `alpha` is the bound divided by out (the constraint of COFT), in LyCORIS and in kohya's OFT alike; 0
    means no bound, as in LyCORIS. turned: blocks are those of R themselves, as files of early LyCORIS 2 hold them
    (`oft_diag`), which have no bound.
    """

    algorithm: ClassVar[str] = "diag-oft"
    suffixes: ClassVar[tuple[str, ...]] = ("oft_blocks", "oft_diag", "rescale")

    blocks: Tensor
    rescale: Tensor | None
    bound: float
    turned: bool = False

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return any(len(shapes.get(name, ())) == 3 for name in cls.suffixes[:2])

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        return super().uses(shapes) - ({"oft_diag"} if "oft_blocks" in shapes else set())

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> DiagOFT:
        name = next(name for name in cls.suffixes[:2] if name in tensors)
        blocks = tensors[name]
        if blocks.dim() != 3 or blocks.shape[1] != blocks.shape[2]:
            raise ValueError(f"{name} of shape {tuple(blocks.shape)} are not square")
        if name == "oft_diag":
            return cls(blocks, tensors.get("rescale"), 0.0, turned=True)
        constraint = float(tensors["alpha"]) if "alpha" in tensors else 0.0
        return cls(blocks, tensors.get("rescale"), constraint * blocks.shape[0] * blocks.shape[1])

    def fits(self, shape: tuple[int, ...]) -> bool:
        out = self.blocks.shape[0] * self.blocks.shape[1]
        return len(shape) >= 2 and shape[0] == out and (self.rescale is None or self.rescale.numel() == out)

    def describe(self) -> dict[str, Any]:
        out = self.blocks.shape[0] * self.blocks.shape[1]
        found = {"dim": self.blocks.shape[1], "constraint": self.bound / out}
        return {**found, "rescaled": self.rescale is not None}

    def delta(self, base: Tensor) -> Tensor:
        delta = torch.empty_like(base, memory_format=torch.contiguous_format)
        for rows, part in self._parts(base):
            delta[rows] = part
        return delta

    def add_delta(self, weight: Tensor, strength: float) -> None:
        for rows, part in self._parts(weight):
            weight[rows].add_(part, alpha=strength)

    def _parts(self, base: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """W' - W by rows of W, some whole blocks at a time."""
        blocks = like(self.blocks, base)
        identity = torch.eye(blocks.shape[-1], dtype=base.dtype, device=base.device)
        turn = blocks - identity if self.turned else cayley_minus_identity(generators(blocks, self.bound))
        turns = turn.transpose(1, 2)
        rescale = None if self.rescale is None else like(self.rescale, base).reshape(-1, *[1] * (base.dim() - 1))
        size = self.blocks.shape[1]
        for some in row_blocks(base, size):
            rows = slice(some.start * size, some.stop * size)
            part = base[rows]
            turn = turns[some]
            delta = (turn @ part.reshape(len(turn), size, -1)).reshape(part.shape)
            if rescale is not None:
                delta.mul_(rescale[rows]).addcmul_(rescale[rows] - 1, part)
            yield rows, delta


def generators(blocks: Tensor, bound: float) -> Tensor:
    """Skew-symmetric Q = blocks - blocks^T, shape (..., s, s), scaled down together to norm `bound` if that is > 0."""
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0:
        norm = skew.norm() + 1e-8
        skew = torch.where(norm > bound, skew * (bound / norm), skew)
    return skew


def cayley_minus_identity(skew: Tensor) -> Tensor:
    """R - I for R = (I + Q)(I - Q)^-1, as 2 Q (I - Q)^-1 so that small rotations keep their precision."""
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(identity - skew, 2 * skew)
