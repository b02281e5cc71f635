"""BOFT: a product of butterfly-permuted block-diagonal rotations of the outputs. Liu et al. 2024, LyCORIS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like
from adapter_lab.adapters.oft import cayley_minus_identity, generators


@dataclass(eq=False)
class BOFT(Adapter):
    """blocks (m, n, s, s): m stages of n blocks, out = n s; rescale (out, 1[, 1, 1]) or None; bound as in diag-OFT.

    Stage i mixes groups of 2^i s channels: channels are taken apart into pairs of halves, turned, and put back.
    """

    algorithm: ClassVar[str] = "boft"
    suffixes: ClassVar[tuple[str, ...]] = ("oft_blocks", "rescale")

    blocks: Tensor
    rescale: Tensor | None
    bound: float

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return len(shapes.get("oft_blocks", ())) == 4

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> BOFT:
        blocks = tensors["oft_blocks"]
        stages, count, size, other = blocks.shape
        if size != other or size % 2:
            raise ValueError(f"oft_blocks of shape {tuple(blocks.shape)} are not square blocks of even size")
        if (count * size) % (2 ** (stages - 1) * size):
            raise ValueError(f"{stages} butterfly stages are impossible for {count} blocks of size {size}")
        constraint = float(tensors["alpha"]) if "alpha" in tensors else 0.0
        return cls(blocks, tensors.get("rescale"), constraint * count * size)

    def fits(self, shape: tuple[int, ...]) -> bool:
        out = self.blocks.shape[1] * self.blocks.shape[2]
        return len(shape) >= 2 and shape[0] == out and (self.rescale is None or self.rescale.numel() == out)

    def describe(self) -> dict[str, Any]:
        stages, count, size, _ = self.blocks.shape
        found = {"dim": size, "stages": stages, "constraint": self.bound / (count * size)}
        return {**found, "rescaled": self.rescale is not None}

    def delta(self, base: Tensor) -> Tensor:
        rows = base.flatten(1)
        delta = torch.empty_like(rows)
        for columns, part in self._parts(rows):
            delta[:, columns] = part
        return delta.reshape(base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if not weight.is_contiguous():
            super().add_delta(weight, strength)
            return
        rows = weight.flatten(1)
        for columns, part in self._parts(rows):
            rows[:, columns].add_(part, alpha=strength)

    def _parts(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """W' - W by columns of W (out, t): all stages of some columns at once, as every stage copies what it turns."""
        turns = cayley_minus_identity(generators(like(self.blocks, rows), self.bound))
        rescale = None if self.rescale is None else like(self.rescale, rows).reshape(-1, 1)
        step = max(CHUNK_BYTES.get(rows.device.type, LARGE_CHUNK) // (rows.element_size() * len(rows)), 1)
        for start in range(0, rows.shape[1], step):
            columns = slice(start, start + step)
            yield columns, rotation_delta(rows[:, columns], turns, rescale)


# Temporary values of a part of the weight: on a CPU they fit its cache, elsewhere there are few launches.
CHUNK_BYTES, LARGE_CHUNK = {"cpu": 2**20}, 2**25


def rotation_delta(rows: Tensor, turns: Tensor, rescale: Tensor | None) -> Tensor:
    """rescale * B W - W for columns W of a weight (out, t); turns: B_i - I of each stage (m, n, s, s)."""
    stages, count, size, _ = turns.shape
    width = rows.shape[1]
    # delta after a stage: (B - I) (W + delta) + delta, so small rotations keep their precision. The first stage takes
    # channels of one block apart into pairs, which can be done to its small matrices instead.
    order = torch.arange(size, device=turns.device).reshape(size // 2, 2).T.reshape(-1)
    first = turns[0][:, order][:, :, order]
    delta = torch.bmm(first, rows.reshape(count, size, width)).reshape(rows.shape)
    for stage in range(1, stages):
        half = 2**stage * size // 2
        turned = torch.empty_like(delta)
        pairs = turned.view(-1, half, 2, width)
        if delta.requires_grad:
            pairs.copy_(halves(rows, half)).add_(halves(delta, half))
        else:  # a pass over the memory less, which knows no gradients
            torch.add(halves(rows, half), halves(delta, half), out=pairs)
        turned = torch.bmm(turns[stage], turned.view(count, size, width))
        delta.view(-1, 2, half, width).add_(turned.view(-1, half, 2, width).transpose(1, 2))
    return delta if rescale is None else rescale * delta + (rescale - 1) * rows


def halves(rows: Tensor, half: int) -> Tensor:
    """Channels of each group of 2 `half` taken apart into pairs, one of either half. rows: (out, t)."""
    return rows.reshape(-1, 2, half, rows.shape[1]).transpose(1, 2)
