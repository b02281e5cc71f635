"""y = R (W x) + b for a frozen W and a block-diagonal orthogonal R (OFT), without keeping W x for the backward pass.

R's gradient needs W x, which is R^T (y - b): the output y itself is kept, which the next operation of a network mostly
keeps anyway. Where there are more tokens than input channels, rotating the weight is cheaper than rotating the output;
that is done in fp32 and fp64 only, since a bf16 weight would lose a small rotation.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def rotated(x: Tensor, operation: Operation, delta: Tensor, rescale: Tensor | None = None) -> Tensor:
    """rescale * R (W x) + b for x as `operation.prepare` returned it; rescale (out,) or None.

    delta = R - I (k, b, b) acts on row vectors: y R. The base's bias is neither rotated nor rescaled.
    """
    function = _RotatedConv if operation.is_conv else _RotatedLinear
    out: Tensor = function.apply(x, operation, delta, rescale)
    return out


def _rotate(rows: Tensor, delta: Tensor) -> Tensor:
    """rows (n, k b) += rows times delta (k, b, b), in place."""
    blocks = _blocks(rows, len(delta))
    blocks.copy_(torch.baddbmm(blocks, blocks, delta))
    return rows


def _blocks(rows: Tensor, count: int) -> Tensor:
    """(n, k b) as (k, n, b), a view."""
    return rows.unflatten(1, (count, -1)).transpose(0, 1)


def _rotated_weight(weight: Tensor, delta: Tensor) -> Tensor:
    """R^T W (in the row-vector convention of `rotated`) for rows (k b, in)."""
    blocks = weight.view(len(delta), delta.shape[1], -1)
    return torch.baddbmm(blocks, delta.transpose(1, 2), blocks).view(weight.shape)


def _rotation_gradient(products: Tensor, delta: Tensor) -> Tensor:
    """dL/dR = (W x)^T g = R ((R W x)^T g) from the products (R W x)^T g of each block."""
    return torch.baddbmm(products, delta, products)


class _RotatedLinear(torch.autograd.Function):
    """Works through groups of blocks, so that a group's outputs are rotated while they are in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, delta: Tensor, rescale: Tensor | None) -> Tensor:
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            weight, bias = operation.weight(dtype), operation.bias(dtype)
            ctx.rotates_weight = dtype in (torch.float32, torch.float64) and len(rows) > rows.shape[1]
            out, out_rows = output_for(x, len(weight))
            turned = out_rows if rescale is None else torch.empty_like(out_rows)
            for chunk, rotation in _block_chunks(rows, delta, ctx.rotates_weight):
                if ctx.rotates_weight:
                    torch.mm(rows, _rotated_weight(weight[chunk], rotation).T, out=turned[:, chunk])
                else:
                    _rotate(torch.mm(rows, weight[chunk].T, out=turned[:, chunk]), rotation)
                if rescale is not None:
                    # z + z (rescale - 1): a rescale near one keeps its digits in half precision.
                    part = turned[:, chunk]
                    torch.addcmul(part, part, (rescale[chunk] - 1).to(dtype), out=out_rows[:, chunk])
                if bias is not None:
                    out_rows[:, chunk] += bias[chunk]
        ctx.operation, ctx.x_shape = operation, x.shape
        ctx.save_for_backward(out if rescale is None else turned, delta, rescale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kept, delta, rescale = ctx.saved_tensors
        dtype = kept.dtype
        with without_autocast(kept.device):
            weight = ctx.operation.weight(dtype)
            # Without a rescale the output itself was kept, which has the bias in it.
            bias = ctx.operation.bias(dtype) if rescale is None else None
            kept_rows = kept.reshape(-1, kept.shape[-1])
            rows = gradient.reshape(-1, gradient.shape[-1])
            dx = rows.new_zeros(len(rows), weight.shape[1]) if ctx.needs_input_grad[0] else None
            delta_gradient = torch.empty_like(delta)
            rescale_gradient = None if rescale is None else torch.empty_like(rescale)
            for chunk, rotation in _block_chunks(rows, delta, ctx.rotates_weight, weight.shape[1]):
                part, kept_part = rows[:, chunk], kept_rows[:, chunk]
                if rescale is not None and rescale_gradient is not None:
                    rescale_gradient[chunk] = (part * kept_part).sum(0)
                    part = torch.addcmul(part, part, (rescale[chunk] - 1).to(dtype))
                count = len(rotation)
                products = torch.bmm(_blocks(kept_part, count).transpose(1, 2), _blocks(part, count))
                if bias is not None:
                    products -= bias[chunk].view(count, -1, 1) * part.sum(0).view(count, 1, -1)
                first = chunk.start // delta.shape[1]
                delta_gradient[first : first + count] = _rotation_gradient(products, rotation)
                if dx is None:
                    continue
                if ctx.rotates_weight:
                    dx.addmm_(part, _rotated_weight(weight[chunk], rotation))
                else:
                    turned = torch.baddbmm(_blocks(part, count), _blocks(part, count), rotation.transpose(1, 2))
                    dx.addmm_(turned.transpose(0, 1).reshape(len(rows), -1), weight[chunk])
        return None if dx is None else dx.view(ctx.x_shape), None, delta_gradient, rescale_gradient


def _block_chunks(
    rows: Tensor, delta: Tensor, rotates_weight: bool, columns: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """(output channels, their blocks of R - I) in groups of whole blocks; `columns`: the weight's, if not `rows`'."""
    block = delta.shape[1]
    each = (columns or rows.shape[1]) if rotates_weight else len(rows)
    for chunk in in_chunks(len(delta) * block, chunk_size(each * rows.element_size(), rows.device, block)):
        yield chunk, delta[chunk.start // block : chunk.stop // block].to(rows.dtype)


class _RotatedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, delta: Tensor, rescale: Tensor | None) -> Tensor:
        with without_autocast(x.device):
            out = operation.run(x, operation.weight(x.dtype)).contiguous()
            turned = _rotate_channels(out, delta.to(x.dtype).transpose(1, 2))
            if rescale is not None:
                out = torch.addcmul(turned, turned, (rescale - 1).view(-1, 1, 1).to(x.dtype))
            bias = operation.bias(x.dtype)
            if bias is not None:
                out.add_(bias[:, None, None])
        ctx.operation, ctx.x_shape = operation, x.shape
        ctx.save_for_backward(out if rescale is None else turned, delta, rescale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kept, delta, rescale = ctx.saved_tensors
        operation: Operation = ctx.operation
        rescale_gradient = None
        with without_autocast(kept.device):
            rotation = delta.to(kept.dtype)
            gradient = gradient.contiguous()
            if rescale is not None:
                rescale_gradient = (gradient * kept).sum((0, 2, 3)).to(rescale.dtype)
                gradient = torch.addcmul(gradient, gradient, (rescale - 1).view(-1, 1, 1).to(kept.dtype))
            columns = gradient.view(len(kept), len(delta), -1, kept.shape[2] * kept.shape[3])
            products = torch.matmul(kept.view(columns.shape), columns.transpose(-1, -2)).sum(0)
            bias = operation.bias(kept.dtype) if rescale is None else None
            if bias is not None:
                products -= bias.view(len(delta), -1, 1) * columns.sum((0, 3)).unsqueeze(1)
            delta_gradient = _rotation_gradient(products, rotation).to(delta.dtype)
            dx = None
            if ctx.needs_input_grad[0]:
                turned = _rotate_channels(gradient.clone(), rotation)
                x = turned.new_empty(1).expand(ctx.x_shape)
                dx = operation.gradient_of_input(turned, x, operation.weight(kept.dtype))
        return dx, None, delta_gradient, rescale_gradient


def _rotate_channels(pictures: Tensor, delta: Tensor) -> Tensor:
    """images (n, k b, h, w) += delta (k, b, b) times images, in place, one image at a time."""
    for picture in pictures:
        blocks = picture.view(len(delta), delta.shape[1], -1)
        blocks.copy_(torch.baddbmm(blocks, delta, blocks))
    return pictures
