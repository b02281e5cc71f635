"""OFTv2: rotations of the input channels, as PEFT and OneTrainer train them. Qiu et al. 2025.

Linear: W' = W R^T. OneTrainer rotates a convolution's flattened inputs the other way, W' = W R; PEFT merges W R^T.
R comes from a truncated Cayley-Neumann series, I + 2Q + 2Q^2 + ... + Q^(terms - 1), or from the exact Cayley transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, row_blocks
from adapter_lab.adapters.oft import cayley_minus_identity


@dataclass(eq=False)
class OFTv2(Adapter):
    """upper: (n, s (s - 1) / 2), the upper triangles of n skew-symmetric (s, s) blocks; n = 1 may be shared by all."""

    algorithm: ClassVar[str] = "oftv2"
    suffixes: ClassVar[tuple[str, ...]] = ("oft_R.weight", "oft_R.scaled_oft", "initial_norm")
    shared: ClassVar[tuple[str, ...]] = ("alpha", "diff_b", "dora_scale")

    upper: Tensor
    terms: int
    peft: bool
    magnitude: Tensor | None
    initial_norm: Tensor | None

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "oft_R.weight" in shapes

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        return super().uses(shapes) - (set() if "dora_scale" in shapes else {"initial_norm"})

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> OFTv2:
        upper = tensors["oft_R.weight"]
        if upper.dim() != 2 or _block_size(upper) is None:
            raise ValueError(f"oft_R of shape {tuple(upper.shape)} does not hold the upper triangles of square blocks")
        if "oft_R.scaled_oft" in tensors:
            upper = upper / math.sqrt(upper.shape[1])
        # OneTrainer's magnitudes are relative to the base weight's norms, not to those of the rotated weight.
        magnitude = tensors.get("dora_scale")
        return cls(upper, options.cayley_terms, options.peft, magnitude, tensors.get("initial_norm"))

    def fits(self, shape: tuple[int, ...]) -> bool:
        size, inputs = _block_size(self.upper), math.prod(shape[1:])
        assert size is not None
        if any(gains is not None and gains.numel() != shape[0] for gains in (self.magnitude, self.initial_norm)):
            return False
        return len(shape) >= 2 and inputs % size == 0 and self.upper.shape[0] in (1, inputs // size)

    def describe(self) -> dict[str, Any]:
        return {"dim": _block_size(self.upper), "dora": "output" if self.magnitude is not None else False}

    def delta(self, base: Tensor) -> Tensor:
        delta = torch.zeros_like(base, memory_format=torch.contiguous_format)
        self._add(base, delta, 1.0)
        return delta

    def add_delta(self, weight: Tensor, strength: float) -> None:
        self._add(weight, weight, strength)

    def _add(self, base: Tensor, total: Tensor, strength: float) -> None:
        """Add strength times W' - W to `total`, which may be W itself."""
        turn = self._rotation_minus_identity(base)
        if base.dim() == 2 or self.peft:
            turn = turn.transpose(1, 2)
        gains = None if self.magnitude is None else self._gains(base)
        for block in row_blocks(base):
            rows = base[block].reshape(-1, math.prod(base.shape[1:]) // turn.shape[-1], turn.shape[-1])
            delta = (rows.transpose(0, 1) @ turn).transpose(0, 1).reshape(base[block].shape)
            if gains is not None:
                delta = delta.mul_(gains[block]).addcmul_(gains[block] - 1, base[block])
            total[block].add_(delta, alpha=strength)

    def _gains(self, base: Tensor) -> Tensor:
        """What the magnitudes multiply each row of the rotated weight by."""
        assert self.magnitude is not None
        norm = base.flatten(1).norm(dim=1) if self.initial_norm is None else like(self.initial_norm, base).flatten()
        return (like(self.magnitude, base).flatten() / norm).reshape(-1, *[1] * (base.dim() - 1))

    def _rotation_minus_identity(self, base: Tensor) -> Tensor:
        """R - I of each block: (n, s, s)."""
        size = _block_size(self.upper)
        assert size is not None
        rows, columns = torch.triu_indices(size, size, 1, device=base.device)
        skew = torch.zeros(self.upper.shape[0], size, size, dtype=base.dtype, device=base.device)
        skew[:, rows, columns] = like(self.upper, base)
        skew = skew - skew.transpose(1, 2)
        if self.terms == 0:
            # PEFT's exact form is (I - Q)(I + Q)^-1 solved from the left: the transform of Q's negative.
            return cayley_minus_identity(-skew)
        return neumann_minus_identity(skew, self.terms)


def neumann_minus_identity(skew: Tensor, terms: int) -> Tensor:
    """2Q + 2Q^2 + ... + 2Q^(terms - 2) + Q^(terms - 1), PEFT's truncation: two terms are 2Q, three count as four."""
    if terms <= 1:
        return torch.zeros_like(skew)
    total, power = 2 * skew, skew
    last = max(terms, 4) - 1 if terms > 2 else 1
    for number in range(2, last + 1):
        power = power @ skew
        total = total + (power if number == last else 2 * power)
    return total


def _block_size(upper: Tensor) -> int | None:
    """s from s (s - 1) / 2 columns; None if there is no such s."""
    size = (1 + math.isqrt(1 + 8 * upper.shape[-1])) // 2
    return size if size * (size - 1) // 2 == upper.shape[-1] and size > 1 else None
