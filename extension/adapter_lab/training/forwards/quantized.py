"""Frozen base weights stored in 8 bits (fp8 or int8 with a scale per output channel), whole only while one layer runs.

The forward and the backward pass each dequantise the weight for the moment, so that neither autograd nor anything
else keeps it. Biases and everything that is not the weight of an nn.Linear or nn.Conv2d stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.errors import ConfigError

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
STORAGES = ("fp8", "int8")


class QuantizedLayer(nn.Module):
    """A frozen Linear or Conv2d whose weight is stored in one byte per value.

    The buffers hold raw bytes in integer dtypes: `module.to(torch.bfloat16)` converts floating-point buffers, and
    would undo an fp8 weight and round an fp32 scale.
    """

    # What it has of the layer it stands for.
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    padding_mode: str

    def __init__(self, layer: nn.Module, storage: str) -> None:
        super().__init__()
        if storage not in STORAGES:
            raise ConfigError(f"Base weights cannot be stored as {storage!r}; choose one of {', '.join(STORAGES)}.")
        self.is_conv = isinstance(layer, nn.Conv2d)
        self.storage = storage
        weight: Any = layer.weight
        weight = weight.detach()
        self.compute_dtype = weight.dtype
        self.shape = tuple(weight.shape)
        stored, scale = quantize(weight, storage)
        self.register_buffer("stored", stored.view(torch.uint8))
        self.register_buffer("scale_bits", scale.view(torch.int32))
        self.bias = layer.bias
        for name in GEOMETRY[self.is_conv]:
            setattr(self, name, getattr(layer, name))

    @property
    def weight(self) -> Tensor:
        """The dequantised weight in the dtype it had, for code that looks at a layer's weight."""
        return self.dequantize(self.compute_dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype`: a new tensor each time."""
        codes = self.stored.view(FP8 if self.storage == "fp8" else torch.int8)  # type: ignore[operator]
        scale = self.scale_bits.view(torch.float32)  # type: ignore[operator]
        # Codes are exact in bf16 and so are the scales `quantize` chooses; fp16 has too small a range for the scales.
        exact = (
            torch.bfloat16 if dtype == torch.bfloat16 else torch.float64 if dtype == torch.float64 else torch.float32
        )
        return codes.to(exact).mul_(scale.to(exact)).to(dtype)

    def frozen(self, x: Tensor, padding: Any, with_bias: bool = True) -> Tensor:
        """The layer's output in x's dtype, with the weight recomputed in the backward pass; differentiable in x."""
        bias = self.bias.detach().to(x.dtype) if with_bias and isinstance(self.bias, Tensor) else None
        out: Tensor = _FrozenProduct.apply(x, self, padding, bias)
        return out

    def forward(self, x: Tensor, *ignored: Any) -> Tensor:
        """As the layer it stands for, autocast included."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        padding: Any = None
        if self.is_conv:
            padding = list(self.padding)
            if self.padding_mode != "zeros":
                around = [side for side in reversed(self.padding) for _ in range(2)]
                x, padding = F.pad(x, around, mode=self.padding_mode), [0, 0]
        with torch.autocast(device, enabled=False):
            return self.frozen(x, padding)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.storage}"


GEOMETRY = {
    False: ("in_features", "out_features"),
    True: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ),
}


def quantize(weight: Tensor, storage: str) -> tuple[Tensor, Tensor]:
    """Codes (fp8 or int8, the weight's shape) and fp32 scales (one per output channel) with weight = codes * scale.

    fp8 scales are powers of two, which cost no precision in a floating-point format; int8 scales have 8 significant
    bits. Both are therefore exact in bf16, and so is an fp8 weight.
    """
    weight = weight.float()
    largest = weight.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * 2**16)
    largest = largest.view(-1, *[1] * (weight.dim() - 1))
    if storage == "fp8":
        scale = torch.exp2(torch.ceil(torch.log2(largest / FP8_LARGEST)))
        return (weight / scale).clamp_(-FP8_LARGEST, FP8_LARGEST).to(FP8), scale
    mantissa, exponent = torch.frexp(largest / 127)
    scale = torch.ldexp(torch.ceil(mantissa * 256) / 256, exponent)
    return (weight / scale).round_().clamp_(-127, 127).to(torch.int8), scale


def compress(
    model: nn.Module, storage: str, wanted: Callable[[str, nn.Module], bool] | None = None
) -> dict[nn.Module, QuantizedLayer]:
    """Replace the Linear and Conv2d layers of a frozen model by compressed ones; returns what replaced what.

    `wanted(path, layer)` chooses layers; by default those whose weight has more than 2^14 values. Replaced layers
    keep their forward hooks' owner, the parent module, so paths stay as they are.
    """
    replaced: dict[nn.Module, QuantizedLayer] = {}
    for path, parent in list(model.named_modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) not in (nn.Linear, nn.Conv2d) or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
                continue
            full_path = f"{path}.{name}" if path else name
            if wanted(full_path, layer) if wanted else layer.weight.numel() > 2**14:
                replaced[layer] = QuantizedLayer(layer, storage)
                setattr(parent, name, replaced[layer])
    return replaced


class _FrozenProduct(torch.autograd.Function):
    """y = W x + b with a compressed W: saves nothing in forward, dequantises W again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLayer, padding: Any, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.padding, ctx.x_shape = layer, padding, x.shape
        weight = layer.dequantize(x.dtype)
        if not layer.is_conv:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        layer = ctx.layer
        weight = layer.dequantize(gradient.dtype)
        if not layer.is_conv:
            return gradient @ weight, None, None, None
        geometry = (list(layer.stride), list(ctx.padding), list(layer.dilation), False, [0, 0], 1)
        # Only the shape of x matters for dL/dx.
        x = gradient.new_empty(1).expand(ctx.x_shape)
        dx = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, (True, False, False))[0]
        return dx, None, None, None
