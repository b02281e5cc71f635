"""OFTv2: W' = W R^T with a block-diagonal rotation R of the inputs, run on the input before the base operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.adapters.oftv2 import neumann_minus_identity
from adapter_lab.training.forwards.layer import AdapterLayer
from adapter_lab.training.forwards.spec import LayerSpec, Shape, impossible

# Terms of the series for R, which readers take for granted where a file says nothing else.
TERMS = 5


class OFTv2Layer(AdapterLayer):
    """upper (n, b (b - 1) / 2): upper triangles of n skew-symmetric blocks times the root of their length.

    So that a step of the optimiser turns a block by the same angle whatever its size is. Convolutions turn their
    flattened inputs (in kh kw) the other way, W' = W R, as OneTrainer does and readers of such files expect.
    """

    file_keys: ClassVar[Mapping[str, str]] = {"upper": "oft_R.weight"}
    has_alpha: ClassVar[bool] = False

    upper: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        inputs = math.prod(spec.shape[1:])
        size = block_size(inputs, spec.dim)
        if size < 2:
            what = f"OFTv2 with dim {spec.dim} gives blocks of one channel, which cannot be rotated,"
            raise impossible([spec.name], what, f"choose a dim that divides its {inputs} inputs.")
        return {"upper": (inputs // size, size * (size - 1) // 2)}

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in cls.shapes(spec).items()}

    @property
    def size(self) -> int:
        """b."""
        return block_size(math.prod(self.spec.shape[1:]), self.spec.dim)

    @property
    def root(self) -> float:
        """What the parameters are divided by."""
        return math.sqrt(self.size * (self.size - 1) / 2)

    def turn(self) -> Tensor:
        """R - I of every block (n, b, b), in the parameters' dtype."""
        rows, columns = torch.triu_indices(self.size, self.size, 1, device=self.upper.device)
        skew = self.upper.new_zeros(len(self.upper), self.size, self.size)
        skew[:, rows, columns] = self.upper / self.root
        return neumann_minus_identity(skew - skew.transpose(1, 2), TERMS)

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        return (self.turn(),)

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        turn = parameters[0] if self.spec.kernel else parameters[0].transpose(1, 2)
        rows = base.to(turn.dtype).reshape(len(base), len(turn), self.size)
        return torch.einsum("onb,nbc->onc", rows, turn).reshape(base.shape)

    def adapted(self, x: Tensor) -> Tensor:
        if self.spec.kernel:
            return super().adapted(x)
        return self.operation.base(x + self._turned(x))

    def update(self, x: Tensor) -> Tensor:
        if self.spec.kernel:
            return super().update(x)
        return self.operation.base(self._turned(x), with_bias=False)

    def _turned(self, x: Tensor) -> Tensor:
        """R^T x - x for x (..., in)."""
        turn = self.turn().to(x.dtype)
        blocks = x.reshape(-1, len(turn), self.size).transpose(0, 1)
        return torch.bmm(blocks, turn).transpose(0, 1).reshape(x.shape)

    # Files.

    def file_tensors(self) -> dict[str, Tensor]:
        return {"oft_R.weight": self.upper.detach() / self.root}

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.upper.copy_(tensors["oft_R.weight"] * self.root)


def block_size(inputs: int, dim: int) -> int:
    """The largest divisor of `inputs` that is at most `dim`."""
    return max(size for size in range(1, min(inputs, dim) + 1) if inputs % size == 0)
