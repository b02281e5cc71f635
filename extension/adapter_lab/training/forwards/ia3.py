"""IA3: one learned gain per output or input channel, W' = W (1 + gain); the base's bias keeps its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.spec import LayerSpec, Shape


class IA3Layer(AdapterLayer):
    """gain (n,), for a convolution (1, n, 1, 1); n is out or, with `train_on_input`, in."""

    file_keys: ClassVar[Mapping[str, str]] = {"gains": "weight"}
    has_alpha: ClassVar[bool] = False

    gains: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        channels = spec.shape[1 if spec.train_on_input else 0]
        return {"gains": (1, channels, *[1] * len(spec.kernel)) if spec.kind == "conv" else (channels,)}

    @classmethod
    def file_shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        return {**super().file_shapes(spec), "on_input": ()}

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().IA3Module

    def adapted(self, x: Tensor) -> Tensor:
        gain = self.gains.to(x.dtype)
        # v + v gain, in one rounding: 1 + gain would lose a small gain in half precision.
        if self.spec.train_on_input:
            return self.operation.base(torch.addcmul(x, x, gain))
        out = self.operation.base(x, with_bias=False)
        out = torch.addcmul(out, out, gain)
        bias = self.operation.bias(x.dtype)
        if bias is None:
            return out
        return out.add_(bias[:, None, None] if self.operation.is_conv else bias)

    def file_tensors(self) -> dict[str, Tensor]:
        return {**super().file_tensors(), "on_input": torch.tensor(float(self.spec.train_on_input))}
