"""y = R (W x) + b for a frozen W and a block-diagonal orthogonal R (OFT), without keeping W x for the backward pass.

R's gradient needs W x, which is R^T (y - b): the output y itself is kept, which the next operation of a network mostly
keeps anyway. Where there are more tokens than input channels, rotating the weight is cheaper than rotating the output;
that is done in fp32 and fp64 only, since a bf16 weight would lose a small rotation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapter_lab.training.forwards.operation import Operation, chunk_size, in_chunks, output_for, without_autocast


def generators(blocks: Tensor, bound: float = 0.0) -> Tensor:
    """Skew-symmetric Q = blocks - blocks^T, (..., b, b); with a bound > 0 scaled down to that norm of all together."""
    skew = blocks - blocks.transpose(-1, -2)
    if bound <= 0:
        return skew
    norm = torch.linalg.vector_norm(skew) + 1e-8  # LyCORIS's, so that equal settings train alike
    return skew * torch.where(norm > bound, bound / norm, torch.ones_like(norm))


def cayley_delta(blocks: Tensor, bound: float = 0.0) -> Tensor:
    """R - I of the Cayley transform R = (I + Q) (I - Q)^-1 of Q = `generators`; (..., b, b).

    R - I is 2 Q (I - Q)^-1, which does not cancel for a small Q. Nothing waits for the device.
    """
    skew = generators(blocks, bound)
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    # Both factors commute, so the inverse may stand on the left.
    delta: Tensor = torch.linalg.solve_ex(identity - skew, 2 * skew)[0]
    return delta


def rotated(x: Tensor, operation: Operation, delta: Tensor) -> Tensor:
    """R (W x) + b for x as `operation.prepare` returned it; delta = R - I (k, b, b) acts on row vectors: y R.

    The base's bias is not rotated.
    """
    function = _RotatedConv if operation.is_conv else _RotatedLinear
    out: Tensor = function.apply(x, operation, delta, True)
    return out


def rotated_without_bias(x: Tensor, operation: Operation, delta: Tensor) -> Tensor:
    """R (W x), as `rotated`."""
    function = _RotatedConv if operation.is_conv else _RotatedLinear
    out: Tensor = function.apply(x, operation, delta, False)
    return out


def _blocks(rows: Tensor, count: int) -> Tensor:
    """(n, k b) as (k, n, b), a view."""
    return rows.view(len(rows), count, -1).transpose(0, 1)


def _rotate(rows: Tensor, delta: Tensor) -> Tensor:
    """rows (n, k b) += rows times delta (k, b, b), in place, in chunks that stay in the cache."""
    for chunk in in_chunks(len(rows), chunk_size(rows.shape[1] * rows.element_size(), rows.device)):
        blocks = _blocks(rows[chunk], len(delta))
        blocks.copy_(torch.baddbmm(blocks, blocks, delta))
    return rows


def _products(left: Tensor, right: Tensor, count: int) -> Tensor:
    """Per block the sum over n of left^T right: (k, b, b) from two (n, k b)."""
    return torch.bmm(_blocks(left, count).transpose(1, 2), _blocks(right, count))


def _rotated_weight(weight: Tensor, delta: Tensor) -> Tensor:
    """R^T W (in the row-vector convention of `rotated`) for rows (k b, in)."""
    blocks = weight.view(len(delta), delta.shape[1], -1)
    return torch.baddbmm(blocks, delta.transpose(1, 2), blocks).view(weight.shape)


def _rotation_gradient(products: Tensor, delta: Tensor, bias: Tensor | None, sums: Tensor | None) -> Tensor:
    """dL/dR = (W x)^T g = R ((y - b)^T g) from the products y^T g, both per block."""
    if bias is not None and sums is not None:
        products = products - bias.view(len(delta), -1, 1) * sums.view(len(delta), 1, -1)
    return torch.baddbmm(products, delta, products)


class _RotatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, delta: Tensor, with_bias: bool) -> Tensor:
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            weight, bias = operation.weight(dtype), operation.bias(dtype) if with_bias else None
            rotation = delta.to(dtype)
            ctx.rotates_weight = dtype in (torch.float32, torch.float64) and len(rows) > rows.shape[1]
            out, out_rows = output_for(x, len(weight))
            if ctx.rotates_weight:
                for chunk, part in _weight_chunks(weight, rotation):
                    if bias is None:
                        torch.mm(rows, part.T, out=out_rows[:, chunk])
                    else:
                        torch.addmm(bias[chunk], rows, part.T, out=out_rows[:, chunk])
            else:
                _rotate(torch.mm(rows, weight.T, out=out_rows), rotation)
                if bias is not None:
                    out.add_(bias)
        ctx.operation, ctx.with_bias, ctx.x_shape = operation, with_bias, x.shape
        ctx.save_for_backward(out, delta)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        out, delta = ctx.saved_tensors
        dtype = out.dtype
        operation: Operation = ctx.operation
        with without_autocast(out.device):
            rotation = delta.to(dtype)
            out_rows = out.view(-1, out.shape[-1])
            rows = gradient.reshape(-1, gradient.shape[-1])
            bias = operation.bias(dtype) if ctx.with_bias else None
            products = _products(out_rows, rows, len(delta))
            delta_gradient = _rotation_gradient(products, rotation, bias, rows.sum(0) if bias is not None else None)
            dx = None
            if ctx.needs_input_grad[0]:
                weight = operation.weight(dtype)
                if ctx.rotates_weight:
                    dx = rows.new_zeros(len(rows), weight.shape[1])
                    for chunk, part in _weight_chunks(weight, rotation):
                        dx.addmm_(rows[:, chunk], part)
                else:
                    dx = _rotate(rows.clone(), rotation.transpose(1, 2)) @ weight
                dx = dx.view(ctx.x_shape)
        return dx, None, delta_gradient.to(delta.dtype), None


def _weight_chunks(weight: Tensor, rotation: Tensor) -> Any:
    """(rows, rotated weight's rows) in chunks of whole blocks."""
    block = rotation.shape[1]
    step = chunk_size(weight.shape[1] * weight.element_size(), weight.device, block)
    for chunk in in_chunks(len(weight), step):
        yield chunk, _rotated_weight(weight[chunk], rotation[chunk.start // block : chunk.stop // block])


class _RotatedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, delta: Tensor, with_bias: bool) -> Tensor:
        with without_autocast(x.device):
            out = operation.run(x, operation.weight(x.dtype)).contiguous()
            _rotate_channels(out, delta.to(x.dtype).transpose(1, 2))
            if with_bias and (bias := operation.bias(x.dtype)) is not None:
                out.add_(bias[:, None, None])
        ctx.operation, ctx.with_bias, ctx.x_shape = operation, with_bias, x.shape
        ctx.save_for_backward(out, delta)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        out, delta = ctx.saved_tensors
        operation: Operation = ctx.operation
        with without_autocast(out.device):
            rotation = delta.to(out.dtype)
            columns = gradient.contiguous().view(len(out), len(delta), -1, out.shape[2] * out.shape[3])
            products = torch.matmul(out.view(columns.shape), columns.transpose(-1, -2)).sum(0)
            bias = operation.bias(out.dtype) if ctx.with_bias else None
            sums = columns.sum((0, 3)) if bias is not None else None
            delta_gradient = _rotation_gradient(products, rotation, bias, sums)
            dx = None
            if ctx.needs_input_grad[0]:
                turned = _rotate_channels(gradient.clone(memory_format=torch.contiguous_format), rotation)
                x = turned.new_empty(1).expand(ctx.x_shape)
                dx = operation.gradient_of_input(turned, x, operation.weight(out.dtype))
        return dx, None, delta_gradient.to(delta.dtype), None


def _rotate_channels(pictures: Tensor, delta: Tensor) -> Tensor:
    """pictures (n, k b, h, w) += delta (k, b, b) times pictures, in place, one picture at a time."""
    for picture in pictures:
        blocks = picture.view(len(delta), delta.shape[1], -1)
        blocks.copy_(torch.baddbmm(blocks, delta, blocks))
    return pictures
