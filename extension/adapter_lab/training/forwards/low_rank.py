"""y = W x + b + up (down x) for a frozen W, in one buffer and with nothing kept but x and the low-rank values.

Sums: for a linear layer the small product is computed first and the large one accumulates onto it, so that in bf16
base and update are added before rounding, not after (an update below the base output's rounding would be lost).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.operation import Operation, output_for, without_autocast

# down (r, in) or (r, in, kh, kw), up (out, r), and for a tucker convolution mid (r, r, kh, kw) with down (r, in, 1, 1).
Factors = tuple[Tensor, Tensor, "Tensor | None"]
Form = Callable[..., Factors]
# Keep down x for the backward pass if it is at most this share of x; else compute it again.
KEPT_SHARE = 1 / 8


def plain(down: Tensor, up: Tensor, mid: Tensor | None = None) -> Factors:
    """The parameters are the factors."""
    return down, up, mid


def low_rank(x: Tensor, operation: Operation, form: Form, *parameters: Tensor) -> Tensor:
    """The adapted output for x as `operation.prepare` returned it; `form` makes the factors of the parameters.

    Factors that `form` computes (any but `plain`) are computed again in the backward pass instead of being kept.
    """
    function = _LowRankConv if operation.is_conv else _LowRankLinear
    out: Tensor = function.apply(x, operation, form, *parameters)
    return out


def low_rank_delta(
    x: Tensor, operation: Operation, down: Tensor, up: Tensor, mid: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """The update's part of the output alone, up (down x), by ordinary autograd; `mask` (B, r): of ranks by sample."""
    dtype = x.dtype
    down, up = down.to(dtype), up.to(dtype)
    if not operation.is_conv:
        hidden = torch.nn.functional.linear(x, down)
        return torch.nn.functional.linear(hidden if mask is None else hidden * by_sample(mask, hidden), up)
    if mid is None:
        hidden = operation.run(x, down)
    else:
        hidden = operation.run(torch.nn.functional.conv2d(x, down), mid.to(dtype))
    if mask is not None:
        hidden = hidden * mask[:, :, None, None]
    return torch.nn.functional.conv2d(hidden, up.flatten(1)[:, :, None, None])


def by_sample(mask: Tensor, hidden: Tensor) -> Tensor:
    """A mask (B, r) that fits values (B, ..., r)."""
    return mask.view(len(mask), *[1] * (hidden.dim() - 2), mask.shape[1])


def add_frozen(out: Tensor, rows: Tensor, operation: Operation, bias: Tensor | None) -> Tensor:
    """out (n, out) += rows (n, in) W^T + b, in place."""
    out.addmm_(rows, operation.weight(rows.dtype).T)
    return out if bias is None else out.add_(bias)


def _factors_with_gradient(form: Form, parameters: tuple[Tensor, ...]) -> tuple[Factors, list[Tensor]]:
    with torch.enable_grad():
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        return form(*leaves), leaves


def _parameter_gradients(
    form: Form, parameters: tuple[Tensor, ...], found: Factors, leaves: list[Tensor], gradients: list[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the parameters for those of the factors (in `found`'s order, without a missing mid)."""
    if form is plain:
        return tuple(gradient.to(parameter.dtype) for gradient, parameter in zip(gradients, parameters))
    factors = [factor for factor in found if factor is not None]
    gradients = [gradient.to(factor.dtype) for gradient, factor in zip(gradients, factors)]
    return torch.autograd.grad(factors, leaves, gradients)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, form: Form, *parameters: Tensor) -> Tensor:
        dtype = x.dtype
        with without_autocast(x.device):
            down, up, _ = form(*parameters)
            rows = x.reshape(-1, x.shape[-1])
            hidden = rows @ down.to(dtype).T
            bias = operation.bias(dtype)
            up = up.to(dtype)
            out, out_rows = output_for(x, len(up))
            if bias is not None and dtype in (torch.float32, torch.float64):
                add_frozen(torch.addmm(bias, hidden, up.T, out=out_rows), rows, operation, None)
            else:
                add_frozen(torch.mm(hidden, up.T, out=out_rows), rows, operation, bias)
        ctx.operation, ctx.form = operation, form
        kept = hidden if hidden.shape[1] <= KEPT_SHARE * x.shape[-1] else None
        ctx.save_for_backward(x, kept, *parameters)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, hidden, *parameters = ctx.saved_tensors
        operation: Operation = ctx.operation
        dtype = x.dtype
        with without_autocast(x.device):
            found, leaves = _factors_with_gradient(ctx.form, parameters)
            down, up = found[0].detach().to(dtype), found[1].detach().to(dtype)
            rows = x.reshape(-1, x.shape[-1])
            out_rows = gradient.reshape(-1, gradient.shape[-1])
            if hidden is None:
                hidden = rows @ down.T
            hidden_gradient = out_rows @ up
            gradients = [hidden_gradient.T @ rows, out_rows.T @ hidden]
            dx = None
            if ctx.needs_input_grad[0]:
                dx = (hidden_gradient @ down).addmm_(out_rows, operation.weight(dtype)).view(x.shape)
            return dx, None, None, *_parameter_gradients(ctx.form, tuple(parameters), found, leaves, gradients)


class _LowRankConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, form: Form, *parameters: Tensor) -> Tensor:
        with without_autocast(x.device):
            down, up, mid = form(*parameters)
            hidden = _conv_hidden(x, operation, down, mid)[-1]
            out = operation.run(x, operation.weight(x.dtype), operation.bias(x.dtype))
            out = out.contiguous()
            out.view(*out.shape[:2], -1).baddbmm_(_batched(up, out), hidden.flatten(2))
        ctx.operation, ctx.form = operation, form
        kept = hidden if mid is None and hidden.numel() <= KEPT_SHARE * x.numel() else None
        ctx.save_for_backward(x, kept, *parameters)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, hidden, *parameters = ctx.saved_tensors
        operation: Operation = ctx.operation
        with without_autocast(x.device):
            found, leaves = _factors_with_gradient(ctx.form, parameters)
            down, up, mid = (None if factor is None else factor.detach().to(x.dtype) for factor in found)
            assert down is not None and up is not None
            stages = _conv_hidden(x, operation, down, mid) if hidden is None else [hidden]
            columns = gradient.reshape(*gradient.shape[:2], -1)
            up_gradient = torch.bmm(columns, stages[-1].flatten(2).transpose(1, 2)).sum(0)
            hidden_gradient = torch.bmm(_batched(up.flatten(1).T, gradient), columns).view(
                len(x), -1, *gradient.shape[2:]
            )
            wants_dx = ctx.needs_input_grad[0]
            dx = operation.gradient_of_input(gradient, x, operation.weight(x.dtype)) if wants_dx else None
            gradients = [up_gradient.view(found[1].shape)]
            if mid is None:
                gradients.insert(0, operation.gradient_of_weight(hidden_gradient, x, down))
                if dx is not None:
                    dx.add_(operation.gradient_of_input(hidden_gradient, x, down))
            else:
                gradients.append(operation.gradient_of_weight(hidden_gradient, stages[0], mid))
                first_gradient = operation.gradient_of_input(hidden_gradient, stages[0], mid).flatten(2)
                down_gradient = torch.bmm(first_gradient, x.reshape(*x.shape[:2], -1).transpose(1, 2)).sum(0)
                gradients.insert(0, down_gradient.view(down.shape))
                if dx is not None:
                    dx.view(*dx.shape[:2], -1).baddbmm_(_batched(down.flatten(1).T, x), first_gradient)
            return dx, None, None, *_parameter_gradients(ctx.form, tuple(parameters), found, leaves, gradients)


def _batched(matrix: Tensor, like: Tensor) -> Tensor:
    """A matrix (its axes behind the second taken as one) for every image of a batch."""
    return matrix.flatten(1).to(like.dtype).expand(len(like), -1, -1)


def _conv_hidden(x: Tensor, operation: Operation, down: Tensor, mid: Tensor | None) -> list[Tensor]:
    """down x, or for a tucker convolution down x and mid (down x)."""
    if mid is None:
        return [operation.run(x, down.to(x.dtype))]
    first = torch.nn.functional.conv2d(x, down.to(x.dtype).flatten(1)[:, :, None, None])
    return [first, operation.run(first, mid.to(x.dtype))]
