"""GLoRA: dW = scale (W a1 a2 + b1 b2), run as a LoRA of rank 2r whose up is [W a1, b1] and whose down is [a2; b2].

Mixing the inputs first (W (x + a1 a2 x)) would round a small update away in bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.low_rank import Factors, add_frozen, low_rank, low_rank_delta
from adapter_lab.training.forwards.merged import WHOLE
from adapter_lab.training.forwards.operation import Operation, output_for, without_autocast
from adapter_lab.training.forwards.spec import LayerSpec, Shape

# W a1 costs as much as r tokens do, forward and in two ways backward; W (a1 a2 x) one product with as many as x has.
FEW_TOKENS = 12


class GLoRALayer(AdapterLayer):
    """a1 (in, r[, 1, 1]), a2 (r, in[, 1, 1]), b1 (out, r[, 1, 1]), b2 (r, in[, kh, kw])."""

    file_keys: ClassVar[Mapping[str, str]] = {name: f"{name}.weight" for name in ("a1", "a2", "b1", "b2")}
    folded_into: ClassVar[tuple[str, ...]] = ("a2", "b2")

    a1: nn.Parameter
    a2: nn.Parameter
    b1: nn.Parameter
    b2: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        out, into = spec.shape[:2]
        r, ones = spec.dim, (1,) * len(spec.kernel)
        return {
            "a1": (into, r, *ones),
            "a2": (r, into, *ones),
            "b1": (out, r, *ones),
            "b2": (r, into, *spec.kernel),
        }

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().GLoRAModule

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        gain = self.gain()
        a2, b2 = self.a2 * gain, self.b2 * gain
        if self.training and self.spec.rank_dropout > 0:
            first, second = self.rank_mask(a2), self.rank_mask(b2)
            assert first is not None and second is not None
            a2, b2 = a2 * first.view(-1, *[1] * (a2.dim() - 1)), b2 * second.view(-1, *[1] * (b2.dim() - 1))
        return self.a1, a2, self.b1, b2

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        found = dict(tensors)
        if found["a1.weight"].flatten(1).shape != self.a1.flatten(1).shape:  # the names of LyCORIS before 4
            for one, other in (("a1.weight", "a2.weight"), ("b1.weight", "b2.weight")):
                found[one], found[other] = found[other], found[one]
        super().load_file_tensors(found)

    def adapted(self, x: Tensor) -> Tensor:
        if self.operation.is_conv:
            return self.operation.base(x).add_(self.update(x))
        parameters = self.parameters_in_use()
        if x.shape[:-1].numel() < FEW_TOKENS * self.spec.dim:
            out: Tensor = _MixedInput.apply(x, self.operation, *parameters)
            return out
        return low_rank(x, self.operation, self._factors(x.dtype), *parameters)

    def update(self, x: Tensor) -> Tensor:
        a1, a2, b1, b2 = self.parameters_in_use()
        if not self.operation.is_conv:
            return low_rank_delta(x, self.operation, *self._factors(x.dtype)(a1, a2, b1, b2))
        dtype = x.dtype
        update = torch.nn.functional.conv2d(self.operation.run(x, b2.to(dtype)), b1.to(dtype))
        mixed = torch.nn.functional.conv2d(x, a2.to(dtype))
        return update.add_(_MixedConv.apply(mixed, a1.flatten(1).to(dtype), self.operation))

    def _factors(self, dtype: torch.dtype) -> Any:
        def form(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> Factors:
            # In the compute dtype: the base's weight is large, and W a1 no more precise than its factors.
            mixed = _MixedColumns.apply(a1.to(dtype), self.operation)
            return torch.cat([a2, b2]).to(dtype), torch.cat([mixed, b1.to(dtype)], 1), None

        return form

    def multiple(self, axis: int) -> int:
        return 1 if axis == 0 else WHOLE

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        a1, a2, b1, b2 = parameters
        if axis == 0:
            b1 = b1[chunk]
        whole = base.to(a1.dtype).movedim(1, -1) @ a1.flatten(1) @ a2.flatten(1)
        return (b1.flatten(1) @ b2.flatten(1)).view(len(b1), -1, *self.spec.kernel) + whole.movedim(-1, 1)


class _MixedColumns(torch.autograd.Function):
    """W a1 (out, r) for a frozen W (out, in), of which nothing is kept."""

    @staticmethod
    def forward(ctx: Any, a1: Tensor, operation: Operation) -> Tensor:
        ctx.operation = operation
        return operation.weight(a1.dtype) @ a1

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.operation.weight(gradient.dtype).T @ gradient, None


class _MixedInput(torch.autograd.Function):
    """W (x + a1 a2 x) + b1 b2 x + b for a linear layer and few tokens: nothing of W's size but the base's own products.

    In half precision x + a1 a2 x would lose the update, so there the two products are added, the small one first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(x, a1, a2, b1, b2)
        dtype = x.dtype
        with without_autocast(x.device):
            rows = x.reshape(-1, x.shape[-1])
            bias = operation.bias(dtype)
            mixed = (rows @ a2.to(dtype).T) @ a1.to(dtype).T
            out, out_rows = output_for(x, len(b1))
            torch.mm(rows @ b2.to(dtype).T, b1.to(dtype).T, out=out_rows)
            if dtype in (torch.float32, torch.float64):
                add_frozen(out_rows, mixed.add_(rows), operation, bias)
            else:
                add_frozen(add_frozen(out_rows, mixed, operation, None), rows, operation, bias)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors
        dtype = x.dtype
        with without_autocast(x.device):
            a1, a2, b1, b2 = (parameter.to(dtype) for parameter in parameters)
            rows = x.reshape(-1, x.shape[-1])
            out_rows = gradient.reshape(-1, gradient.shape[-1])
            through = out_rows @ ctx.operation.weight(dtype)
            inner, outer = through @ a1, out_rows @ b1
            gradients = [through.T @ (rows @ a2.T), inner.T @ rows, out_rows.T @ (rows @ b2.T), outer.T @ rows]
            dx = None
            if ctx.needs_input_grad[0]:
                dx = through.addmm_(inner, a2).addmm_(outer, b2).view(x.shape)
            found = [one.to(parameter.dtype) for one, parameter in zip(gradients, parameters)]
        return dx, None, *found


class _MixedConv(torch.autograd.Function):
    """The convolution of `mixed` (n, r, h, w) with W a1 (out, r, kh, kw), which is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, a1: Tensor, operation: Operation) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(mixed, a1)
        return operation.run(mixed, _mixed_kernel(operation.weight(a1.dtype), a1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        mixed, a1 = ctx.saved_tensors
        with without_autocast(mixed.device):
            weight = ctx.operation.weight(a1.dtype)
            kernel = _mixed_kernel(weight, a1)
            mixed_gradient = ctx.operation.gradient_of_input(gradient, mixed, kernel)
            kernel_gradient = ctx.operation.gradient_of_weight(gradient, mixed, kernel)
            rows = weight.movedim(1, -1).flatten(0, -2)
            return mixed_gradient, rows.T @ kernel_gradient.movedim(1, -1).flatten(0, -2), None


def _mixed_kernel(weight: Tensor, a1: Tensor) -> Tensor:
    return (weight.movedim(1, -1) @ a1).movedim(-1, 1).contiguous()
