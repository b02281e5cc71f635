"""y = rescale * B_m ... B_1 (W x) + b for a frozen W and butterfly rotations B_i (BOFT), run on the base's output.

Nothing is kept for the backward pass but the output, from which the stages are gone back: each B_i is orthogonal, so
what went into it is B_i^T times what came out. Outputs are worked on in fp32 (fp64 for fp64) and rounded once, some
tokens at a time, so that all stages of those run in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.operation import Operation, chunk_size, in_chunks, without_autocast


def butterflied(x: Tensor, operation: Operation, turns: Tensor, rescale: Tensor | None = None) -> Tensor:
    """rescale * B (W x) + b for x as `operation.prepare` returned it; turns = B_i - I (m, n, b, b), rescale (out,)."""
    out: Tensor = _Butterflied.apply(x, operation, turns, rescale)
    return out


def paired(rows: Tensor, size: int, stage: int) -> Tensor:
    """P rows as (n, b, t) for rows (n b, t): stage i takes groups of 2^i b rows apart into interleaved halves."""
    half = 2**stage * size // 2
    return rows.reshape(-1, 2, half, rows.shape[1]).transpose(1, 2).reshape(-1, size, rows.shape[1])


def unpaired(blocks: Tensor, stage: int) -> Tensor:
    """P^T blocks: the inverse of `paired`, (n b, t)."""
    count, size, columns = blocks.shape
    half = 2**stage * size // 2
    return blocks.view(-1, half, 2, columns).transpose(1, 2).reshape(count * size, columns)


class _Butterflied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, turns: Tensor, rescale: Tensor | None) -> Tensor:
        with without_autocast(x.device):
            out = operation.run(x, operation.weight(x.dtype)).contiguous()
            turned = out if rescale is None else torch.empty_like(out)
            bias = operation.bias(turns.dtype)
            for columns, kept in _columns(operation, turns, out, turned):
                rows = columns.to(turns.dtype)
                for stage, turn in enumerate(turns):
                    blocks = paired(rows, turn.shape[-1], stage)
                    rows = unpaired(torch.baddbmm(blocks, turn, blocks), stage)
                kept.copy_(rows)
                if rescale is not None:
                    rows *= rescale[:, None]
                columns.copy_(rows if bias is None else rows.add_(bias[:, None]))
        ctx.operation, ctx.x_shape = operation, x.shape
        # Without a rescale the output itself is kept, which has the bias in it.
        ctx.save_for_backward(turned, turns, rescale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kept, turns, rescale = ctx.saved_tensors
        operation: Operation = ctx.operation
        with without_autocast(kept.device):
            bias = operation.bias(turns.dtype) if rescale is None else None
            gradient = gradient.contiguous()
            turned = torch.empty_like(gradient)  # the gradient of W x
            turns_gradient = torch.zeros_like(turns)
            rescale_gradient = None if rescale is None else torch.zeros_like(rescale)
            for columns, kept_columns, result in _columns(operation, turns, gradient, kept, turned):
                slope, rows = columns.to(turns.dtype), kept_columns.to(turns.dtype)
                if bias is not None:
                    rows = rows - bias[:, None]
                if rescale is not None and rescale_gradient is not None:
                    rescale_gradient += (slope * rows).sum(1)
                    slope = slope * rescale[:, None]
                result.copy_(_gone_back(slope, rows, turns, turns_gradient))
            dx = None
            if ctx.needs_input_grad[0]:
                x = turned.new_empty(1).expand(ctx.x_shape)
                dx = operation.gradient_of_input(turned, x, operation.weight(kept.dtype))
        return dx, None, turns_gradient, rescale_gradient


def _gone_back(slope: Tensor, rows: Tensor, turns: Tensor, turns_gradient: Tensor) -> Tensor:
    """The gradient (out, t) of what went into the first stage, for that of what came out of the last, and its values.

    Adds the gradients of the stages to `turns_gradient`. Gradient and values go back through the same B_i^T.
    """
    both, tokens = torch.cat([slope, rows], 1), slope.shape[1]
    for stage in reversed(range(len(turns))):
        blocks = paired(both, turns.shape[-1], stage)
        before = torch.baddbmm(blocks, turns[stage].transpose(1, 2), blocks)
        turns_gradient[stage].baddbmm_(blocks[..., :tokens], before[..., tokens:].transpose(1, 2))
        both = unpaired(before, stage)
    return both[:, :tokens]


def _columns(operation: Operation, turns: Tensor, *outputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views (out, t) of the same few tokens of each output, which are contiguous (..., out) or (n, out, h, w)."""
    pictures = [
        output.flatten(2) if operation.is_conv else output.view(1, -1, output.shape[-1]).mT for output in outputs
    ]
    channels, tokens = pictures[0].shape[1:]
    step = chunk_size(channels * turns.element_size(), turns.device)
    for picture in zip(*pictures):
        for chunk in in_chunks(tokens, step):
            yield tuple(matrix[:, chunk] for matrix in picture)
