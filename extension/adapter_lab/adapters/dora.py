"""DoRA: the magnitude of the weight learned apart from its direction, over any other algorithm. Liu et al. 2024.

W'' = m * W' / |W'|, the norm taken per output row or per input column, whichever the magnitudes belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, row_blocks


@dataclass(eq=False)
class DoRA(Adapter):
    """inner: the adapter whose W' is decomposed; magnitude: (out, 1[, 1, 1]), (1, in[, 1, 1]) or (out,)."""

    algorithm: ClassVar[str] = "dora"
    suffixes: ClassVar[tuple[str, ...]] = ()

    inner: Adapter
    magnitude: Tensor

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return False  # `file.adapter_from_tensors` wraps whatever comes with magnitudes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> DoRA:
        raise NotImplementedError("DoRA wraps another adapter")

    @property
    def on_output(self) -> bool:
        """Whether the magnitudes belong to output rows: so they do unless the first axis is 1 and the second is not."""
        shape = self.magnitude.shape
        return len(shape) < 2 or not (shape[0] == 1 and shape[1] != 1)

    def fits(self, shape: tuple[int, ...]) -> bool:
        count = shape[0 if self.on_output or len(shape) < 2 else 1]
        return len(shape) >= 2 and self.inner.fits(shape) and self.magnitude.numel() == count

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "dora": "output" if self.on_output else "input"}

    def weight(self, base: Tensor) -> Tensor:
        weight = self.inner.weight(base)
        return weight * dora_gain(weight, like(self.magnitude, base), self.on_output)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        magnitude = like(self.magnitude, weight)
        if self.inner.uses_base:
            patched = weight.clone(memory_format=torch.contiguous_format)
            self.inner.add_delta(patched, 1.0)
            patched.mul_(dora_gain(patched, magnitude, self.on_output))
            weight.lerp_(patched, strength)
            return
        # W + m (g W' - W) = (1 - m + m g) W' - (1 - m) (W' - W), so that W need not be kept beside W'.
        self.inner.add_delta(weight, 1.0)
        weight.mul_(1 - strength + strength * dora_gain(weight, magnitude, self.on_output))
        if strength != 1:
            self.inner.add_delta(weight, strength - 1)


def dora_gain(weight: Tensor, magnitude: Tensor, on_output: bool) -> Tensor:
    """m / |W| per output row or input column, broadcastable to W. weight: (out, in[, kh, kw]); magnitude: any shape."""
    axis = 0 if on_output else 1
    norm = torch.linalg.vector_norm(weight.flatten(1), dim=1) if on_output else _column_norm(weight)
    shape = [1] * weight.dim()
    shape[axis] = -1
    # The eps is LyCORIS's; it matters only for a row that is zero.
    return (magnitude.flatten() / (norm + torch.finfo(weight.dtype).eps)).reshape(shape)


def _column_norm(weight: Tensor) -> Tensor:
    """Norm of each input column (in,) of a weight (out, in[, kh, kw]), row by row as it lies in memory."""
    squares = weight.new_zeros(weight.shape[1])
    for rows in row_blocks(weight):
        block = weight[rows].square().sum(0)
        squares += block if block.dim() == 1 else block.flatten(1).sum(1)
    return squares.sqrt()
