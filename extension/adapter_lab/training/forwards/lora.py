"""LoRA and LoCon: dW = scale up down, or with a Tucker core mid. Run as two small operations beside the base's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.low_rank import low_rank, low_rank_delta, plain
from adapter_lab.training.forwards.spec import LayerSpec, Shape
from adapter_lab.training.forwards.starts import start_factors

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"


class LoRALayer(AdapterLayer):
    """down (r, in[, kh, kw]) and up (out, r[, 1, 1]); Tucker: down (r, in, 1, 1) and mid (r, r, kh, kw).

    Where `init` is not the usual, also the factors it began with (start_down, start_up), which are not trained: the
    update is up down - start_up start_down, zero at first, and a file is a LoRA of twice the dim.
    """

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
    start_down: Tensor
    start_up: Tensor

    def __init__(self, spec: LayerSpec, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        starts = {name: values[name] for name in ("start_down", "start_up") if name in values}
        super().__init__(spec, module, {name: value for name, value in values.items() if name not in starts})
        if self.has_start(spec) and not starts:  # a dry run without values
            starts = {"start_down": torch.empty_like(self.down), "start_up": torch.empty_like(self.up)}
        for name, value in starts.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)

    @staticmethod
    def has_start(spec: LayerSpec) -> bool:
        """Whether this module begins with factors that are subtracted again: a Tucker core has no such form."""
        return spec.init != "usual" and not spec.uses_tucker

    @property
    def starts(self) -> tuple[Tensor, Tensor] | None:
        """down and up as they were at first; None with the usual start, which adds nothing."""
        return (self.start_down, self.start_up) if self.has_start(self.spec) else None

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
        gain, mask = self.gain(), self.rank_mask(self.up)
        up = self.up * gain
        if mask is not None:
            up = up * mask.view(1, -1, *[1] * len(self.spec.kernel))
        if self.starts is not None:
            start_down, start_up = self.starts
            start = (
                start_up * gain if mask is None else start_up * gain * mask.view(1, -1, *[1] * len(self.spec.kernel))
            )
            return torch.cat([self.down, start_down]), torch.cat([up, -start], dim=1)
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
        if self.spec.uses_tucker or self.starts is not None:
            return super().update_norm()
        # |up down|^2 is the sum of the elementwise product of the two Gram matrices.
        gain = self.gain()
        up, down = self.up.flatten(1) * gain, self.down.flatten(1)
        return ((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt()

    # Files.

    @classmethod
    def file_shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        shapes = super().file_shapes(spec)
        if not cls.has_start(spec):
            return shapes
        (rank, *inner), (out, _, *ones) = shapes[DOWN], shapes[UP]
        return {**shapes, DOWN: (2 * rank, *inner), UP: (out, 2 * rank, *ones)}

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        values = super().initial_values(spec, weight)
        if not cls.has_start(spec):
            return values
        shapes = cls.shapes(spec)
        down, up = start_factors(spec, shapes["down"], shapes["up"], weight)
        return {**values, "down": down.clone(), "up": up.clone(), "start_down": down, "start_up": up}

    def file_tensors(self) -> dict[str, Tensor]:
        found = super().file_tensors()
        if self.starts is None:
            return found
        (start_down, start_up), (_, rest) = self.starts, self._alpha_in_file()
        left_over = self.scalar.detach() * rest if "scalar" in self._parameters else rest
        found[DOWN] = torch.cat([found[DOWN], start_down])
        found[UP] = torch.cat([found[UP], -start_up * left_over], dim=1)
        found[ALPHA] = 2 * found[ALPHA]
        return found

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        if self.starts is None:
            super().load_file_tensors(tensors)
            return
        rank, alpha = self.spec.dim, tensors[ALPHA] / 2
        super().load_file_tensors({**tensors, DOWN: tensors[DOWN][:rank], UP: tensors[UP][:, :rank], ALPHA: alpha})
        with torch.no_grad():
            ratio = self._scale_in_file({ALPHA: alpha}) / self.spec.scale
            self.start_down.copy_(tensors[DOWN][rank:])
            self.start_up.copy_(-tensors[UP][:, rank:] * ratio)


def low_rank_weight(down: Tensor, up: Tensor, mid: Tensor | None, kernel: Shape) -> Tensor:
    """up down as a weight (out, in[, kh, kw])."""
    flat = up.flatten(1)
    if mid is None:
        return (flat @ down.flatten(1)).view(len(flat), -1, *kernel)
    inner = torch.einsum("pqk,qi->pik", mid.flatten(2), down.flatten(1))
    return (flat @ inner.flatten(1)).view(len(flat), -1, *kernel)
