"""LoRA and LoCon: dW = scale up down, or with a Tucker core mid. Run as two small operations beside the base's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.low_rank import low_rank, low_rank_delta, plain
from adapter_lab.training.forwards.spec import LayerSpec, Shape


class LoRALayer(AdapterLayer):
    """down (r, in[, kh, kw]) and up (out, r[, 1, 1]); Tucker: down (r, in, 1, 1) and mid (r, r, kh, kw)."""

    file_keys: ClassVar[Mapping[str, str]] = {
        "down": "lora_down.weight",
        "mid": "lora_mid.weight",
        "up": "lora_up.weight",
    }
    folded_into: ClassVar[tuple[str, ...]] = ("up",)
    outer: ClassVar[tuple[str, ...]] = ("up",)

    down: nn.Parameter
    mid: nn.Parameter
    up: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        out, into = spec.shape[:2]
        ones = (1,) * len(spec.kernel)
        if spec.uses_tucker:
            return {
                "down": (spec.dim, into, *ones),
                "mid": (spec.dim, spec.dim, *spec.kernel),
                "up": (out, spec.dim, *ones),
            }
        return {"down": (spec.dim, into, *spec.kernel), "up": (out, spec.dim, *ones)}

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().LoConModule

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        up = self.up * self.gain()
        mask = self.rank_mask(up)
        if mask is not None:
            up = up * mask.view(1, -1, *[1] * len(self.spec.kernel))
        return (self.down, up, self.mid) if self.spec.uses_tucker else (self.down, up)

    def adapted(self, x: Tensor) -> Tensor:
        return low_rank(x, self.operation, plain, *self.parameters_in_use())

    def update(self, x: Tensor) -> Tensor:
        down, up, *mid = self.parameters_in_use()
        return low_rank_delta(x, self.operation, down, up, mid[0] if mid else None)

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        down, up, *mid = parameters
        if axis == 0:
            up = up[chunk]
        else:
            down = down[:, chunk]
        return low_rank_weight(down, up, mid[0] if mid else None, self.spec.kernel)

    @torch.no_grad()
    def update_norm(self) -> Tensor:
        if self.spec.uses_tucker:
            return super().update_norm()
        # |up down|^2 is the sum of the elementwise product of the two Gram matrices.
        gain = self.gain()
        up, down = self.up.flatten(1) * gain, self.down.flatten(1)
        return ((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt()


def low_rank_weight(down: Tensor, up: Tensor, mid: Tensor | None, kernel: Shape) -> Tensor:
    """up down as a weight (out, in[, kh, kw])."""
    flat = up.flatten(1)
    if mid is None:
        return (flat @ down.flatten(1)).view(len(flat), -1, *kernel)
    inner = torch.einsum("pqk,qi->pik", mid.flatten(2), down.flatten(1))
    return (flat @ inner.flatten(1)).view(len(flat), -1, *kernel)
