"""BOFT: W' = rescale * B_m ... B_1 W with butterfly rotations B_i, run on the base's output or with the rotated weight.

Every stage permutes and copies what it rotates, so the smaller of the two is rotated: the outputs of few tokens, or the
columns of the weight. The weight costs more, since its rotation is computed again for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from adapter_lab.training.forwards.butterfly import butterflied, paired, unpaired
from adapter_lab.training.forwards.layer import lycoris
from adapter_lab.training.forwards.merged import WeightForm, merged
from adapter_lab.training.forwards.oft import OrthogonalLayer
from adapter_lab.training.forwards.operation import Operation
from adapter_lab.training.forwards.spec import LayerSpec, Shape, butterfly_blocks, impossible, smallest_butterfly_dim

# Up to so many tokens per column of the weight, rotating the outputs is the faster way (measured on a CPU).
TOKENS_PER_COLUMN = 4


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
    def refuse_impossible(cls, specs: Sequence[LayerSpec]) -> None:
        """Blocks must be even and their number a power of two: name all modules they do not fit, and what would."""
        smallest = {spec.name: smallest_butterfly_dim(spec.shape[0]) for spec in specs}
        failing = [spec for spec in specs if (smallest[spec.name] or math.inf) > spec.dim]
        if not failing:
            return
        possible = [dim for dim in smallest.values() if dim is not None]
        sizes = ", ".join(str(size) for size in sorted({spec.shape[0] for spec in failing}))
        remedy = f"choose a dim of at least {max(possible)}" if possible else "leave these modules out with a rule"
        dims = ", ".join(str(dim) for dim in sorted({spec.dim for spec in failing}))
        raise impossible(
            [spec.name for spec in failing], f"BOFT with dim {dims} does not fit {sizes} outputs", f"{remedy}."
        )

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().ButterflyOFTModule

    def adapted(self, x: Tensor) -> Tensor:
        turns, rescale = self.turns(), self.rescale if self.spec.rescaled else None
        if _tokens(x, self.operation) < TOKENS_PER_COLUMN * math.prod(self.spec.shape[1:]):
            return butterflied(x, self.operation, turns, None if rescale is None else rescale.flatten())
        parameters = [turns] if rescale is None else [turns, rescale]
        return merged(x, self.operation, WeightForm(self.spec.shape, _delta, axis=1), *parameters)


def _tokens(x: Tensor, operation: Operation) -> int:
    """How many columns the operation's output has, about, for x as `operation.prepare` returned it."""
    if not operation.is_conv:
        return x.numel() // x.shape[-1]
    return x.numel() // x.shape[1] // math.prod(operation.stride)


def _delta(chunk: slice, base: Tensor, turns: Tensor, rescale: Tensor | None = None) -> Tensor:
    """(B - I) W for some columns of W. The change is carried along apart from W, so that it does not cancel."""
    weight = base.to(turns.dtype).flatten(1)
    change: Tensor | None = None
    for stage, turn in enumerate(turns):
        blocks = paired(weight if change is None else weight + change, turn.shape[-1], stage)
        step = unpaired(turn @ blocks, stage)
        change = step if change is None else change + step
    assert change is not None
    if rescale is not None:
        factor = rescale.view(-1, 1)
        change = factor * change + (factor - 1) * weight
    return change.view(base.shape)
