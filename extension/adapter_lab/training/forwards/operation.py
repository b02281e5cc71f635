"""The frozen base operation that an adapter works on: its weight, its geometry, and its two derivatives."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards.quantized import QuantizedLayer


class Operation:
    """A frozen nn.Linear or nn.Conv2d, plain or with compressed storage (`quantized.py`).

    Adapters ask for the weight when they need it and never keep what they get, so that a compressed weight is whole
    only for a moment.
    """

    def __init__(self, module: nn.Module, name: str = "") -> None:
        self.module = module
        self.compressed = module if isinstance(module, QuantizedLayer) else None
        self.is_conv = self.compressed.is_conv if self.compressed else isinstance(module, nn.Conv2d)
        if not self.is_conv and not isinstance(module, nn.Linear) and not self.compressed:
            raise ConfigError(f"Module {name} is a {type(module).__name__}, which no adapter can be put on.")
        self.stride: list[int] = []
        self.padding: list[int] = []
        self.dilation: list[int] = []
        self.pad_around: tuple[list[int], str] | None = None
        if self.is_conv:
            self._read_geometry(module, name)

    def _read_geometry(self, conv: Any, name: str) -> None:
        if conv.groups != 1 or isinstance(conv.padding, str):
            raise ConfigError(f"Module {name} is a grouped convolution, which no adapter can be put on.")
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding = list(conv.padding)
        if conv.padding_mode != "zeros":
            self.pad_around = [side for side in reversed(conv.padding) for _ in range(2)], conv.padding_mode
            self.padding = [0, 0]

    def weight_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype the frozen weight has; a compressed weight has that of the input."""
        return x.dtype if self.compressed else self.module.weight.dtype  # type: ignore[return-value]

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype the base operation computes in: autocast's where it is on, else the weight's."""
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        return self.weight_dtype(x)

    def prepare(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The input in the compute dtype, with padding that is not zeros already around it."""
        x = x.to(dtype)
        return F.pad(x, self.pad_around[0], mode=self.pad_around[1]) if self.pad_around else x

    def weight(self, dtype: torch.dtype) -> Tensor:
        """W (out, in) or (out, in, kh, kw), detached, in `dtype`."""
        if self.compressed:
            return self.compressed.dequantize(dtype)
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight.detach().to(dtype)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """b (out,), detached, in `dtype`, or None."""
        bias = self.module.bias
        return bias.detach().to(dtype) if isinstance(bias, Tensor) else None

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The operation with another weight on an input that `prepare` returned."""
        if not self.is_conv:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def base(self, x: Tensor, with_bias: bool = True) -> Tensor:
        """The base's own output on an input that `prepare` returned; differentiable in x."""
        if self.compressed:
            return self.compressed.frozen(x, self.padding, with_bias)
        return self.run(x, self.weight(x.dtype), self.bias(x.dtype) if with_bias else None)

    def gradient_of_input(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """dL/dx of `run` for dL/dy."""
        if not self.is_conv:
            return gradient @ weight
        return self._conv_backward(gradient, x, weight, (True, False))[0]

    def gradient_of_weight(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """dL/dW of `run` for dL/dy; `weight` gives the shape."""
        if not self.is_conv:
            return gradient.reshape(-1, gradient.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        return self._conv_backward(gradient, x, weight, (False, True))[1]

    def _conv_backward(self, gradient: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> Any:
        geometry = (None, self.stride, self.padding, self.dilation, False, [0, 0], 1)
        return torch.ops.aten.convolution_backward(gradient, x, weight, *geometry, (*wanted, False))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which nothing is cast behind our back: adapters cast by hand."""
    return torch.autocast(device.type, enabled=False)


def in_chunks(total: int, step: int) -> list[slice]:
    """Slices of at most `step` that cover range(total)."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def output_for(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A new output (..., channels) for x (..., in), and a view of it as rows (n, channels).

    The first is what an autograd function returns: of a view it could not be changed in place any more.
    """
    out = x.new_empty(*x.shape[:-1], channels)
    return out, out.view(-1, channels)


CHUNK_BYTES = {"cpu": 3 * 2**19}
LARGE_CHUNK = 2**25


def chunk_size(bytes_each: int, device: torch.device, multiple: int = 1) -> int:
    """How many rows or columns of `bytes_each` are handled at once; a multiple of `multiple`.

    About 1.5 MB on a CPU (it fits the cache) and 32 MB elsewhere (few launches), so that temporary values are small
    beside the activations.
    """
    limit = CHUNK_BYTES.get(device.type, LARGE_CHUNK)
    return max(limit // bytes_each // multiple, 1) * multiple
