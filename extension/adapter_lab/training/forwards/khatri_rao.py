"""y = W x + b + up (down x) for a frozen W with up = a1 * a2 and down = b1 * b2, row- and column-wise Khatri-Rao.

That is LoHa's update (a1 b1) * (a2 b2) as one of rank r^2. The factors are made in chunks, forward and backward, so
that nothing of their size (r times that of the parameters) is kept or allocated at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.low_rank import KEPT_SHARE, add_frozen
from adapter_lab.training.forwards.operation import Operation, chunk_size, in_chunks, output_for, without_autocast


def khatri_rao(x: Tensor, operation: Operation, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """Linear layers: a1, a2 (out, r), b1, b2 (r, in); x as `operation.prepare` returned it."""
    out: Tensor = _KhatriRao.apply(x, operation, a1, b1, a2, b2)
    return out


def rows_of(a1: Tensor, a2: Tensor) -> Tensor:
    """(n, r) and (n, r) to (n, r^2): all products within each row."""
    return (a1[:, :, None] * a2[:, None]).flatten(1)


class _KhatriRao(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            hidden = _down(rows, b1, b2)
            bias = operation.bias(dtype)
            exact = dtype in (torch.float32, torch.float64)
            out, out_rows = output_for(x, len(a1))
            for chunk in _chunks(len(a1), hidden):
                up = rows_of(a1[chunk], a2[chunk]).to(dtype)
                if exact and bias is not None:
                    torch.addmm(bias[chunk], hidden, up.T, out=out_rows[:, chunk])
                else:
                    torch.mm(hidden, up.T, out=out_rows[:, chunk])
            add_frozen(out_rows, rows, operation, None if exact else bias)
        ctx.operation = operation
        kept = hidden if hidden.shape[1] <= KEPT_SHARE * x.shape[-1] else None
        ctx.save_for_backward(x, kept, a1, b1, a2, b2)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, hidden, a1, b1, a2, b2 = ctx.saved_tensors
        dtype, r = x.dtype, len(b1)
        a1_gradient, a2_gradient = torch.empty_like(a1), torch.empty_like(a2)
        b1_gradient, b2_gradient = torch.empty_like(b1), torch.empty_like(b2)
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            out_rows = gradient.reshape(-1, gradient.shape[-1])
            if hidden is None:
                hidden = _down(rows, b1, b2)
            hidden_gradient = torch.zeros_like(hidden)
            for chunk in _chunks(len(a1), hidden):
                first, second = a1[chunk], a2[chunk]
                part = out_rows[:, chunk]
                products = (part.T @ hidden).to(a1.dtype).view(-1, r, r)
                a1_gradient[chunk] = torch.bmm(products, second[:, :, None])[:, :, 0]
                a2_gradient[chunk] = torch.bmm(first[:, None], products)[:, 0]
                hidden_gradient.addmm_(part, rows_of(first, second).to(dtype))
            dx = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
            for chunk in _chunks(rows.shape[1], hidden):
                first, second = b1[:, chunk], b2[:, chunk]
                products = (hidden_gradient.T @ rows[:, chunk]).to(b1.dtype).view(r, r, -1)
                b1_gradient[:, chunk] = (products * second).sum(1)
                b2_gradient[:, chunk] = (products * first[:, None]).sum(0)
                if dx is not None:
                    torch.mm(hidden_gradient, _down_factor(first, second).to(dtype), out=dx[:, chunk])
            if dx is not None:
                dx = dx.addmm_(out_rows, ctx.operation.weight(dtype)).view(x.shape)
        return dx, None, a1_gradient, b1_gradient, a2_gradient, b2_gradient


def _chunks(size: int, hidden: Tensor) -> list[slice]:
    return in_chunks(size, chunk_size(hidden.shape[1] * hidden.element_size(), hidden.device))


def _down_factor(b1: Tensor, b2: Tensor) -> Tensor:
    """(r, n) and (r, n) to (r^2, n): all products within each column."""
    return (b1[:, None] * b2[None]).flatten(0, 1)


def _down(rows: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
    """rows (n, in) times down^T: (n, r^2)."""
    hidden = rows.new_zeros(len(rows), len(b1) ** 2)
    for chunk in _chunks(rows.shape[1], hidden):
        hidden.addmm_(rows[:, chunk], _down_factor(b1[:, chunk], b2[:, chunk]).to(rows.dtype).T)
    return hidden
