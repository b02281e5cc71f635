"""BOFT: W' = rescale * B_m ... B_1 W with butterfly rotations B_i, run with the rotated weight.

Rotating the outputs instead would permute all of them m times; the columns of a weight are fewer than the tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adapter_lab.training.forwards.layer import lycoris
from adapter_lab.training.forwards.merged import WeightForm, merged
from adapter_lab.training.forwards.oft import OrthogonalLayer
from adapter_lab.training.forwards.spec import LayerSpec, Shape, butterfly_blocks, impossible, smallest_butterfly_dim


class BOFTLayer(OrthogonalLayer):
    """blocks (m, n, b, b): m stages of n blocks with out = n b."""

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        found = butterfly_blocks(spec.shape[0], spec.dim)
        if found is None:
            smallest = smallest_butterfly_dim(spec.shape[0])
            remedy = f"the smallest dim that works there is {smallest}." if smallest else "leave it out with a rule."
            raise impossible([spec.name], f"BOFT with dim {spec.dim} does not fit the {spec.shape[0]} outputs", remedy)
        size, count = found
        # One stage for each halving of the block count, and one within the blocks.
        shapes: dict[str, Shape] = {"blocks": (count.bit_length(), count, size, size)}
        if spec.rescaled:
            shapes["rescale"] = (spec.shape[0], *[1] * (len(spec.shape) - 1))
        return shapes

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().ButterflyOFTModule

    def adapted(self, x: Tensor) -> Tensor:
        parameters = [self.turns(), *([self.rescale] if self.spec.rescaled else [])]
        return merged(x, self.operation, WeightForm(self.spec.shape, _delta, axis=1), *parameters)


def _delta(chunk: slice, base: Tensor, turns: Tensor, rescale: Tensor | None = None) -> Tensor:
    """(B - I) W for some columns of W. The change is carried along apart from W, so that it does not cancel."""
    weight = base.to(turns.dtype).flatten(1)
    change: Tensor | None = None
    for stage, turn in enumerate(turns):
        step = _butterfly(weight if change is None else weight + change, turn, stage)
        change = step if change is None else change + step
    assert change is not None
    if rescale is not None:
        factor = rescale.view(-1, 1)
        change = factor * change + (factor - 1) * weight
    return change.view(base.shape)


def _butterfly(rows: Tensor, turn: Tensor, stage: int) -> Tensor:
    """P^T diag(turn) P rows; P of stage i takes groups of 2^i b rows apart into interleaved pairs of halves."""
    count, size = turn.shape[:2]
    half = 2**stage * size // 2
    paired = rows.reshape(-1, 2, half, rows.shape[1]).transpose(1, 2).reshape(count, size, -1)
    turned = (turn @ paired).view(-1, half, 2, rows.shape[1])
    return turned.transpose(1, 2).reshape(rows.shape)
