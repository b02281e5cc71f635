"""y = W x + b + (w1 kron w2) x for a frozen W, without building the Kronecker product.

With x seen as (c, d) per token, (w1 kron w2) x = w1 (a, c) @ X @ w2^T (d, b). A factored w2 = w2a w2b lets w1 work on
the r values between its factors, which makes the whole about as cheap as a LoRA of rank r.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.low_rank import KEPT_SHARE, add_frozen
from adapter_lab.training.forwards.operation import Operation, chunk_size, in_chunks, output_for, without_autocast


def kronecker_factored(x: Tensor, operation: Operation, w1: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
    """Linear layers: w1 (a, c), w2a (b, r), w2b (r, d); x (..., c d) as `operation.prepare` returned it."""
    out: Tensor = _Factored.apply(x, operation, w1, w2a, w2b)
    return out


def kronecker_whole(x: Tensor, operation: Operation, w1: Tensor, w2: Tensor) -> Tensor:
    """Linear layers: w1 (a, c), w2 (b, d); cheaper than building W + dW where a is more than about four."""
    out: Tensor = _Whole.apply(x, operation, w1, w2)
    return out


class _Factored(torch.autograd.Function):
    """Values between the factors lie as (c, n, r): mixing by w1 is then one product of (a, c) and (c, n r).

    Tokens come in chunks, since with a large w1 these values are larger than x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, w1: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            first, second_a, second_b = w1.to(dtype), w2a.to(dtype), w2b.to(dtype)
            out, out_rows = output_for(x, len(first) * len(second_a))
            chunks = _token_chunks(rows, max(w1.shape) * len(w2b))
            for chunk in chunks:
                hidden = _down(rows[chunk], second_b)
                _up(_mix(first, hidden), second_a.T, out_rows[chunk])
            add_frozen(out_rows, rows, operation, operation.bias(dtype))
        ctx.operation = operation
        kept = hidden if len(chunks) == 1 and hidden.numel() <= KEPT_SHARE * rows.numel() else None
        ctx.save_for_backward(x, kept, w1, w2a, w2b)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, kept, w1, w2a, w2b = ctx.saved_tensors
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            out_rows = gradient.reshape(-1, gradient.shape[-1])
            first, second_a, second_b = w1.to(dtype), w2a.to(dtype), w2b.to(dtype)
            sums = [torch.zeros_like(w1), torch.zeros_like(w2a), torch.zeros_like(w2b)]
            dx = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
            for chunk in _token_chunks(rows, max(w1.shape) * len(w2b)):
                hidden = _down(rows[chunk], second_b) if kept is None else kept
                mixed_gradient = _down(out_rows[chunk], second_a.T)
                sums[0] += mixed_gradient.flatten(1) @ hidden.flatten(1).T
                sums[1] += _sum_of_products(out_rows[chunk], _mix(first, hidden))
                hidden_gradient = _mix(first.T, mixed_gradient)
                sums[2] += _sum_of_products(rows[chunk], hidden_gradient).T
                if dx is not None:
                    _up(hidden_gradient, second_b, dx[chunk])
            if dx is not None:
                dx = dx.addmm_(out_rows, ctx.operation.weight(dtype)).view(x.shape)
        return dx, None, *sums


def _down(rows: Tensor, factor: Tensor) -> Tensor:
    """rows (n, c d) and factor (r, d) to (c, n, r)."""
    pieces = rows.view(len(rows), -1, factor.shape[1]).transpose(0, 1)
    if len(pieces) == 1:
        return (rows @ factor.T)[None]
    out = rows.new_empty(*pieces.shape[:2], factor.shape[0])
    return torch.bmm(pieces, factor.T.expand(len(pieces), -1, -1), out=out)


def _mix(w1: Tensor, hidden: Tensor) -> Tensor:
    """w1 (a, c) and hidden (c, n, r) to (a, n, r)."""
    if w1.numel() == 1:
        return hidden * w1.view(())
    return (w1 @ hidden.flatten(1)).view(len(w1), *hidden.shape[1:])


def _up(mixed: Tensor, factor: Tensor, out: Tensor) -> None:
    """mixed (a, n, r) and factor (r, b) into out (n, a b)."""
    pieces = out.view(len(out), len(mixed), -1)
    for index in range(len(mixed)):
        torch.mm(mixed[index], factor, out=pieces[:, index])


def _sum_of_products(rows: Tensor, values: Tensor) -> Tensor:
    """Sum over c of rows[:, c] (n, d)^T values[c] (n, r): (d, r)."""
    pieces = rows.view(len(rows), len(values), -1)
    total = pieces[:, 0].T @ values[0]
    for index in range(1, len(values)):
        total.addmm_(pieces[:, index].T, values[index])
    return total


class _Whole(torch.autograd.Function):
    """Tokens come in chunks, since the values between the two products are as large as x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, w1: Tensor, w2: Tensor) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(x, w1, w2)
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            first, second = w1.to(dtype), w2.to(dtype)
            out, out_rows = output_for(x, len(first) * len(second))
            for chunk in _token_chunks(rows, rows.shape[1] // second.shape[1] * max(second.shape)):
                values = _second(rows[chunk], second)
                per_token = out_rows[chunk].view(len(values), len(first), -1)
                torch.bmm(first.expand(len(values), -1, -1), values, out=per_token)
            add_frozen(out_rows, rows, operation, operation.bias(dtype))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, w1, w2 = ctx.saved_tensors
        dtype = x.dtype
        with without_autocast(x.device):
            first, second = w1.to(dtype), w2.to(dtype)
            rows = x.reshape(-1, x.shape[-1])
            out_rows = gradient.reshape(-1, gradient.shape[-1])
            w1_gradient, w2_gradient = torch.zeros_like(w1), torch.zeros_like(w2)
            dx = rows.new_empty(rows.shape) if ctx.needs_input_grad[0] else None
            for chunk in _token_chunks(rows, rows.shape[1] // second.shape[1] * max(second.shape)):
                per_token = out_rows[chunk].reshape(-1, len(first), len(second))
                values = _second(rows[chunk], second)
                w1_gradient += torch.tensordot(per_token, values, dims=([0, 2], [0, 2]))
                values = torch.bmm(first.T.expand(len(values), -1, -1), per_token).view(-1, len(second))
                w2_gradient += values.T @ rows[chunk].reshape(-1, second.shape[1])
                if dx is not None:
                    torch.mm(values, second, out=dx[chunk].view(-1, second.shape[1]))
            if dx is not None:
                dx = dx.addmm_(out_rows, ctx.operation.weight(dtype)).view(x.shape)
        return dx, None, w1_gradient, w2_gradient


def _token_chunks(rows: Tensor, values: int) -> list[slice]:
    """Chunks of tokens for which `values` temporary numbers per token stay small."""
    return in_chunks(len(rows), chunk_size(values * rows.element_size(), rows.device))


def _second(rows: Tensor, w2: Tensor) -> Tensor:
    """rows (n, c d) and w2 (b, d) to (n, c, b); rows of a single image may lie channel by channel, and are copied."""
    return (rows.reshape(-1, w2.shape[1]) @ w2.T).view(len(rows), -1, w2.shape[0])
