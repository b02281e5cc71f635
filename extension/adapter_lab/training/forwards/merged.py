"""y = W' x + b with a weight W' that is made when it is needed: for updates that no product of small factors gives.

In fp32 and fp64 one operation with W + dW replaces the rebuild's two. In bf16 and fp16 the sum W + dW would lose what
dW changes, so the forward pass there runs base and update apart and adds their outputs. The backward pass makes the
weight again: nothing of the weight's size outlives the layer's own forward or backward, and for linear layers it is
made in chunks, so nothing of the weight's size is allocated at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.low_rank import add_frozen
from adapter_lab.training.forwards.operation import Operation, chunk_size, in_chunks, output_for, without_autocast

WHOLE = 0


@dataclass(frozen=True)
class WeightForm:
    """How an update dW is made, chunk by chunk along the axis on which its parts do not depend on each other.

    `delta(chunk, base, *parameters)` gives dW for the slice `chunk` of axis 0 (out) or 1 (in), of which `base` is W's
    part in its own dtype; differentiable in the parameters and in their dtype. Chunks are multiples of `multiple`, or
    everything at once if it is WHOLE.
    """

    shape: tuple[int, ...]
    delta: Callable[..., Tensor]
    axis: int = 0
    multiple: int = 1

    def chunks(self, element_size: int, device: torch.device) -> list[slice]:
        """Slices that cover the axis."""
        total = self.shape[self.axis]
        if self.multiple == WHOLE:
            return [slice(0, total)]
        values = prod(self.shape) // total
        return in_chunks(total, chunk_size(values * element_size, device, self.multiple))

    def part(self, tensor: Tensor, chunk: slice) -> Tensor:
        """The chunk of a tensor with the weight's axes."""
        return tensor[chunk] if self.axis == 0 else tensor[:, chunk]


def merged(x: Tensor, operation: Operation, form: WeightForm, *parameters: Tensor) -> Tensor:
    """(W + dW) x + b for x as `operation.prepare` returned it."""
    out: Tensor = _Merged.apply(x, operation, form, True, *parameters)
    return out


def merged_delta(x: Tensor, operation: Operation, form: WeightForm, *parameters: Tensor) -> Tensor:
    """The update's part of the output alone, dW x."""
    out: Tensor = _Merged.apply(x, operation, form, False, *parameters)
    return out


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, form: WeightForm, with_base: bool, *parameters: Tensor) -> Tensor:  # fmt: skip  # noqa: E501
        ctx.operation, ctx.form, ctx.with_base = operation, form, with_base
        ctx.save_for_backward(x, *parameters)
        exact = x.dtype in (torch.float32, torch.float64)
        with without_autocast(x.device):
            bias = operation.bias(x.dtype) if with_base else None
            run = _run_conv if operation.is_conv else _run_linear
            out = run(ctx, x, parameters, with_base and exact, bias if exact else None)
            if with_base and not exact:
                if operation.is_conv:
                    out.add_(operation.run(x, operation.weight(x.dtype), bias))
                else:
                    add_frozen(out.view(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]), operation, bias)
            return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors
        with without_autocast(x.device):
            run = _conv_backward if ctx.operation.is_conv else _linear_backward
            dx, gradients = run(ctx, gradient, x, parameters)
        return dx, None, None, None, *gradients


def _chunks(ctx: Any, x: Tensor, parameters: tuple[Tensor, ...]) -> Iterator[tuple[slice, Tensor]]:
    """Chunks and W's part of each, in W's own dtype, which a sum with dW widens."""
    form: WeightForm = ctx.form
    weight = ctx.operation.weight(ctx.operation.weight_dtype(x))
    for chunk in form.chunks(parameters[0].element_size(), x.device):
        yield chunk, form.part(weight, chunk)


def _run_linear(ctx: Any, x: Tensor, parameters: tuple[Tensor, ...], with_base: bool, bias: Tensor | None) -> Tensor:
    form: WeightForm = ctx.form
    rows = x.reshape(-1, x.shape[-1])
    out, out_rows = output_for(x, form.shape[0])
    if form.axis == 1:
        out_rows.copy_(bias) if bias is not None else out_rows.zero_()
    for chunk, base in _chunks(ctx, x, parameters):
        delta = form.delta(chunk, base, *parameters)
        weight = (base + delta if with_base else delta).to(x.dtype)
        if form.axis == 1:
            out_rows.addmm_(rows[:, chunk], weight.T)
        elif bias is not None:
            torch.addmm(bias[chunk], rows, weight.T, out=out_rows[:, chunk])
        else:
            torch.mm(rows, weight.T, out=out_rows[:, chunk])
    return out


def _run_conv(ctx: Any, x: Tensor, parameters: tuple[Tensor, ...], with_base: bool, bias: Tensor | None) -> Tensor:
    out: Tensor = ctx.operation.run(x, _whole_weight(ctx, x, parameters, with_base), bias)
    return out


def _whole_weight(ctx: Any, x: Tensor, parameters: tuple[Tensor, ...], with_base: bool) -> Tensor:
    """W + dW or dW in the compute dtype, filled chunk by chunk."""
    weight = x.new_empty(ctx.form.shape)
    for chunk, base in _chunks(ctx, x, parameters):
        delta = ctx.form.delta(chunk, base, *parameters)
        ctx.form.part(weight, chunk).copy_(base + delta if with_base else delta)
    return weight


def _linear_backward(
    ctx: Any, gradient: Tensor, x: Tensor, parameters: tuple[Tensor, ...]
) -> tuple[Tensor | None, list[Tensor | None]]:
    form: WeightForm = ctx.form
    rows = x.reshape(-1, x.shape[-1])
    out_rows = gradient.reshape(-1, gradient.shape[-1])
    dx: Tensor | None = None
    if ctx.needs_input_grad[0]:
        dx = torch.zeros_like(rows) if form.axis == 0 else torch.empty_like(rows)
    sums: list[Tensor | None] = [None] * len(parameters)
    for chunk, base in _chunks(ctx, x, parameters):
        leaves, delta = _delta_with_gradient(form, chunk, base, parameters)
        if dx is not None:
            weight = (base + delta.detach() if ctx.with_base else delta.detach()).to(x.dtype)
            if form.axis == 0:
                dx.addmm_(out_rows[:, chunk], weight)
            else:
                torch.mm(out_rows, weight, out=dx[:, chunk])
        left, right = (out_rows[:, chunk], rows) if form.axis == 0 else (out_rows, rows[:, chunk])
        _add_gradients(sums, delta, leaves, left.T @ right)
    return (None if dx is None else dx.view(x.shape)), sums


def _conv_backward(
    ctx: Any, gradient: Tensor, x: Tensor, parameters: tuple[Tensor, ...]
) -> tuple[Tensor | None, list[Tensor | None]]:
    form: WeightForm = ctx.form
    dx = None
    if ctx.needs_input_grad[0]:
        dx = ctx.operation.gradient_of_input(gradient, x, _whole_weight(ctx, x, parameters, ctx.with_base))
    weight_gradient = ctx.operation.gradient_of_weight(gradient, x, x.new_empty(1).expand(form.shape))
    sums: list[Tensor | None] = [None] * len(parameters)
    for chunk, base in _chunks(ctx, x, parameters):
        leaves, delta = _delta_with_gradient(form, chunk, base, parameters)
        _add_gradients(sums, delta, leaves, form.part(weight_gradient, chunk))
    return dx, sums


def _delta_with_gradient(
    form: WeightForm, chunk: slice, base: Tensor, parameters: tuple[Tensor, ...]
) -> tuple[list[Tensor], Tensor]:
    with torch.enable_grad():
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        return leaves, form.delta(chunk, base, *leaves)


def _add_gradients(sums: list[Tensor | None], delta: Tensor, leaves: list[Tensor], gradient: Tensor) -> None:
    for index, part in enumerate(torch.autograd.grad(delta, leaves, gradient.to(delta.dtype))):
        total = sums[index]
        sums[index] = part if total is None else total + part
