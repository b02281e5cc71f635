"""LoHa: dW = scale (w1_a w1_b) * (w2_a w2_b), elementwise. Each half may have a Tucker core.

It is exactly a low-rank update of rank r^2, whose factors are row-wise and column-wise Khatri-Rao products; for small r
that is the cheapest way, else W + dW is made for the moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.khatri_rao import khatri_rao
from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.lora import low_rank_weight
from adapter_lab.training.forwards.low_rank import Factors, low_rank, low_rank_delta
from adapter_lab.training.forwards.spec import LayerSpec, Shape

# Products with a small inner size are slower per multiplication than large ones, by about this much (CPU, measured).
SMALL_PRODUCT_COST = 1.15


class LoHaLayer(AdapterLayer):
    """Plain: w_a (out, r), w_b (r, in kh kw). Tucker: w_a (r, out), w_b (r, in), t (r, r, kh, kw)."""

    file_keys: ClassVar[Mapping[str, str]] = {
        name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
    }
    folded_into: ClassVar[tuple[str, ...]] = ("w1_a",)
    outer: ClassVar[tuple[str, ...]] = ("w1_a", "w2_a")

    w1_a: nn.Parameter
    w1_b: nn.Parameter
    w2_a: nn.Parameter
    w2_b: nn.Parameter
    t1: nn.Parameter
    t2: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        out, into = spec.shape[:2]
        r = spec.dim
        if spec.uses_tucker:
            half = {"a": (r, out), "b": (r, into)}
            cores: dict[str, Shape] = {"t1": (r, r, *spec.kernel), "t2": (r, r, *spec.kernel)}
        else:
            half = {"a": (out, r), "b": (r, into * torch.Size(spec.kernel).numel())}
            cores = {}
        return {**{f"w{number}_{side}": half[side] for number in (1, 2) for side in "ab"}, **cores}

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().LohaModule

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        w1_a: Tensor = self.w1_a * self.gain()
        w2_a: Tensor = self.w2_a
        if self.training and self.spec.rank_dropout > 0:
            axis = (-1, 1) if self.spec.uses_tucker else (1, -1)
            first, second = self.rank_mask(w1_a), self.rank_mask(w2_a)
            assert first is not None and second is not None
            w1_a, w2_a = w1_a * first.view(axis), w2_a * second.view(axis)
        cores = (self.t1, self.t2) if self.spec.uses_tucker else ()
        return w1_a, self.w1_b, w2_a, self.w2_b, *cores

    def adapted(self, x: Tensor) -> Tensor:
        if not self._low_rank_is_cheaper(x):
            return super().adapted(x)
        if self.operation.is_conv:
            return low_rank(x, self.operation, self._factors, *self.parameters_in_use())
        return khatri_rao(x, self.operation, *self.parameters_in_use())

    def update(self, x: Tensor) -> Tensor:
        if not self._low_rank_is_cheaper(x):
            return super().update(x)
        return low_rank_delta(x, self.operation, *self._factors(*self.parameters_in_use()))

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        w1_a, w1_b, w2_a, w2_b, *cores = parameters
        first = self._half(axis, chunk, w1_a, w1_b, cores[0] if cores else None)
        return first * self._half(axis, chunk, w2_a, w2_b, cores[1] if cores else None)

    def _half(self, axis: int, chunk: slice, w_a: Tensor, w_b: Tensor, core: Tensor | None) -> Tensor:
        if core is not None:
            w_a = w_a.T
        down = w_b if core is not None else w_b.view(len(w_b), -1, *self.spec.kernel)
        if axis == 0:
            return low_rank_weight(down, w_a[chunk], core, self.spec.kernel)
        return low_rank_weight(down[:, chunk], w_a, core, self.spec.kernel)

    def _factors(self, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, *cores: Tensor) -> Factors:
        """down (r^2, in[, kh, kw]), up (out, r^2), mid: the rank-r^2 form."""
        rank = self.spec.dim**2
        down = (w1_b[:, None] * w2_b[None]).view(rank, -1)
        if cores:
            up = (w1_a[:, None] * w2_a[None]).view(rank, -1).T
            mid = (cores[0][:, None, :, None] * cores[1][None, :, None]).reshape(rank, rank, *self.spec.kernel)
            return down[:, :, None, None], up, mid
        up = (w1_a[:, :, None] * w2_a[:, None]).view(-1, rank)
        return down.view(rank, -1, *self.spec.kernel), up, None

    def _low_rank_is_cheaper(self, x: Tensor) -> bool:
        """Compare multiplications per step of the rank-r^2 form with those that W + dW needs beyond the base's own."""
        out, into, *kernel = self.spec.shape
        positions = torch.Size(kernel).numel()
        weight = out * into * positions
        rank, r = self.spec.dim**2, self.spec.dim
        tokens = x.numel() // into
        if self.operation.is_conv:
            tokens //= self.operation.stride[0] * self.operation.stride[1]
        if self.spec.uses_tucker:
            strided_in = x.numel() // into
            per_rank = strided_in * into + tokens * (out + rank * positions)
        else:
            per_rank = tokens * (out + into * positions)
        small = 3 * rank * per_rank * SMALL_PRODUCT_COST
        exact = x.dtype in (torch.float32, torch.float64)
        # One more product with the weight's gradient (two in half precision), and making dW and its parts' gradients.
        large = weight * (tokens * (1 if exact else 2) + 8 * r)
        return small < large
