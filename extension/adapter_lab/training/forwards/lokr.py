"""LoKr: dW = scale w1 kron w2, run as two small products per token instead of one with the Kronecker product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.training.forwards.kronecker import kronecker_factored, kronecker_whole
from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.lora import low_rank_weight
from adapter_lab.training.forwards.spec import LayerSpec, Shape, factorization

# With a whole w2 the Kronecker form costs 3 / a of the base's two products, W + dW costs one more.
SMALLEST_FACTOR = 4


class LoKrLayer(AdapterLayer):
    """w1 (a, c), or w1_a (a, r) and w1_b (r, c). w2 (b, d[, kh, kw]), or w2_a (b, r) and w2_b (r, d kh kw), or Tucker:
    w2_a (r, b), w2_b (r, d), t2 (r, r, kh, kw). out = a b, in = c d."""

    file_keys: ClassVar[Mapping[str, str]] = {
        name: f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    }
    folded_into: ClassVar[tuple[str, ...]] = ("w1", "w1_a")

    w1: nn.Parameter
    w1_a: nn.Parameter
    w1_b: nn.Parameter
    w2: nn.Parameter
    w2_a: nn.Parameter
    w2_b: nn.Parameter
    t2: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        (a, b), (c, d) = kronecker_sizes(spec)
        r = spec.dim
        shapes: dict[str, Shape] = {}
        if spec.decompose_both and not spec.full_matrix and r < max(a, c) / 2:
            shapes |= {"w1_a": (a, r), "w1_b": (r, c)}
        else:
            shapes["w1"] = (a, c)
        if spec.full_matrix or r >= max(b, d) / 2:
            shapes["w2"] = (b, d, *spec.kernel)
        elif spec.uses_tucker:
            shapes |= {"t2": (r, r, *spec.kernel), "w2_a": (r, b), "w2_b": (r, d)}
        else:
            shapes |= {"w2_a": (b, r), "w2_b": (r, d * torch.Size(spec.kernel).numel())}
        return shapes

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().LokrModule

    @property
    def whole_factors(self) -> bool:
        """Both factors whole: then alpha is not used, neither here nor by any reader of the file."""
        return "w1" in self._parameters and "w2" in self._parameters

    def gain(self) -> Tensor | float:
        if not self.whole_factors:
            return super().gain()
        return self.scalar if "scalar" in self._parameters else 1.0

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        """w1 whole, then w2 or w2_a, w2_b[, t2]."""
        w1: Tensor = self.w1 if "w1" in self._parameters else self._masked(self.w1_a, 1) @ self.w1_b
        w1 = w1 * self.gain()
        if "w2" in self._parameters:
            return w1, self._masked(self.w2, 0) if self.whole_factors else self.w2
        w2_a = self._masked(self.w2_a, 0 if self.spec.uses_tucker else 1)
        return (w1, w2_a, self.w2_b, self.t2) if self.spec.uses_tucker else (w1, w2_a, self.w2_b)

    def _masked(self, factor: Tensor, axis: int) -> Tensor:
        """Rank dropout; a factor without ranks loses rows instead."""
        mask = self.rank_mask(factor, factor.shape[axis])
        return factor if mask is None else factor * mask.view(*[-1 if d == axis else 1 for d in range(factor.dim())])

    def adapted(self, x: Tensor) -> Tensor:
        w1, *second = self.parameters_in_use()
        if self.operation.is_conv:
            if self._merges(w1, second):
                return super().adapted(x)
            return self.operation.base(x).add_(self._conv(x, w1, *second))
        if len(second) == 2:
            return kronecker_factored(x, self.operation, w1, *second)
        if self._merges(w1, second):
            return super().adapted(x)
        return kronecker_whole(x, self.operation, w1, second[0])

    def update(self, x: Tensor) -> Tensor:
        w1, *second = self.parameters_in_use()
        if self.operation.is_conv:
            return super().update(x) if self._merges(w1, second) else self._conv(x, w1, *second)
        w1, second = w1.to(x.dtype), [factor.to(x.dtype) for factor in second]
        values = x.unflatten(-1, (w1.shape[1], -1))
        for factor in (second[1], second[0]) if len(second) == 2 else second:
            values = F.linear(values, factor)
        return torch.matmul(w1, values).flatten(-2)

    @staticmethod
    def _merges(w1: Tensor, second: list[Tensor]) -> bool:
        return len(second) == 1 and len(w1) < SMALLEST_FACTOR

    def _conv(self, x: Tensor, w1: Tensor, *second: Tensor) -> Tensor:
        """(w1 kron w2) x for a convolution: the c groups of channels are images of their own."""
        dtype = x.dtype
        batch, out = len(x), self.spec.shape[0]
        pictures = x.reshape(-1, x.shape[1] // w1.shape[1], *x.shape[2:])
        if len(second) == 1:
            values = self.operation.run(pictures, second[0].to(dtype))
        elif self.spec.uses_tucker:
            values = F.conv2d(pictures, second[1].to(dtype)[:, :, None, None])
            values = self.operation.run(values, second[2].to(dtype))
        else:
            values = self.operation.run(pictures, second[1].to(dtype).view(self.spec.dim, -1, *self.spec.kernel))
        size = values.shape[2:]
        mixed = torch.matmul(w1.to(dtype), values.reshape(batch, w1.shape[1], -1))
        if len(second) > 1:
            w2_a = second[0].T if self.spec.uses_tucker else second[0]
            mixed = torch.matmul(w2_a.to(dtype), mixed.view(batch * len(w1), self.spec.dim, -1))
        return mixed.reshape(batch, out, *size)

    def multiple(self, axis: int) -> int:
        return kronecker_sizes(self.spec)[axis][1]

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        w1, *second = parameters
        kernel = self.spec.kernel
        if len(second) == 1:
            w2 = second[0]
        elif self.spec.uses_tucker:
            w2 = low_rank_weight(second[1], second[0].T, second[2], kernel)
        else:
            w2 = low_rank_weight(second[1], second[0], None, kernel)
        size = w2.shape[axis]
        part = slice(chunk.start // size, chunk.stop // size)
        w1 = w1[part] if axis == 0 else w1[:, part]
        product = w1.view(len(w1), 1, -1, *[1] * (w2.dim() - 1)) * w2[None, :, None]
        return product.reshape(w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1], *kernel)

    def _alpha_in_file(self) -> tuple[float, float]:
        return (float(self.spec.dim), 1.0) if self.whole_factors else super()._alpha_in_file()

    def _scale_in_file(self, tensors: Mapping[str, Tensor]) -> float:
        return self.spec.scale if self.whole_factors else super()._scale_in_file(tensors)

    @torch.no_grad()
    def update_norm(self) -> Tensor:
        was_training, self.training = self.training, False
        try:
            w1, *second = self.parameters_in_use()
            # |w1 kron w2| = |w1| |w2|: dW with a w1 of one element is w2.
            one = w1.new_ones(1, 1)
            whole = self.delta(0, slice(0, kronecker_sizes(self.spec)[0][1]), w1, one, *second)
            return w1.norm() * whole.norm()
        finally:
            self.training = was_training


def kronecker_sizes(spec: LayerSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """((a, b), (c, d)) with out = a b and in = c d."""
    rows = factorization(spec.shape[0], spec.factor)
    return rows[::-1] if spec.unbalanced else rows, factorization(spec.shape[1], spec.factor)
