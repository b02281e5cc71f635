"""T-LoRA: dW = scale up M down, where M leaves out the last ranks of each sample by how much of it is noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from adapter_lab.training.forwards.lora import LoRALayer
from adapter_lab.training.forwards.low_rank import low_rank_delta
from adapter_lab.training.forwards.spec import LayerSpec, Shape

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"


class TLoRALayer(LoRALayer):
    """LoRA's parameters; with an orthogonal start also the factors it began with, which are not trained.

    With these the update is up down - start_up start_down, zero at first, and a file is a LoRA of twice the dim.
    """

    start_down: Tensor
    start_up: Tensor

    def __init__(self, spec: LayerSpec, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        starts = {name: values[name] for name in ("start_down", "start_up") if name in values}
        super().__init__(spec, module, {name: value for name, value in values.items() if name not in starts})
        if self.is_orthogonal(spec) and not starts:  # a dry run without values
            starts = {"start_down": torch.empty_like(self.down), "start_up": torch.empty_like(self.up)}
        for name, value in starts.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)

    @staticmethod
    def is_orthogonal(spec: LayerSpec) -> bool:
        """Whether this module begins with orthonormal factors: a Tucker core has no such form."""
        return spec.orthogonal_start and not spec.uses_tucker

    @classmethod
    def file_shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        shapes = super().file_shapes(spec)
        if not cls.is_orthogonal(spec):
            return shapes
        (rank, *inner), (out, _, *ones) = shapes[DOWN], shapes[UP]
        return {**shapes, DOWN: (2 * rank, *inner), UP: (out, 2 * rank, *ones)}

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        values = super().initial_values(spec, weight)
        if not cls.is_orthogonal(spec):
            return values
        down, up = cls.shapes(spec)["down"], cls.shapes(spec)["up"]
        values["start_down"] = orthonormal_rows(down[0], math.prod(down[1:])).view(down)
        values["start_up"] = orthonormal_rows(up[1], up[0]).T.reshape(up)
        return {**values, "down": values["start_down"].clone(), "up": values["start_up"].clone()}

    @property
    def starts(self) -> tuple[Tensor, Tensor] | None:
        """down and up as they were at first; None for a common start."""
        return (self.start_down, self.start_up) if self.is_orthogonal(self.spec) else None

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        down, up, *mid = super().parameters_in_use()
        if self.starts is None:
            return (down, up, *mid)
        start_down, start_up = self.starts
        return torch.cat([down, start_down]), torch.cat([up, -start_up * self.gain()], dim=1)

    def adapted(self, x: Tensor) -> Tensor:
        if self.mask(x) is None:
            return super().adapted(x)
        return self.operation.base(x) + self.update(x)

    def update(self, x: Tensor) -> Tensor:
        mask = self.mask(x)
        if mask is None:
            return super().update(x)
        down, up, *mid = self.parameters_in_use()
        return low_rank_delta(x, self.operation, down, up, mid[0] if mid else None, mask)

    def mask(self, x: Tensor) -> Tensor | None:
        """1 for each rank that takes part, (B, r) or twice as many with an orthogonal start; None: all do."""
        shares = self.noise_shares() if self.training else None
        if shares is None:
            return None
        rank, stated = self.spec.dim, self.spec.min_rank
        least = rank // 2 if isinstance(stated, str) else min(stated, rank)
        kept = least + ((1 - shares) ** self.spec.rank_power * (rank - least)).floor()
        mask = (torch.arange(rank, device=shares.device) < kept[:, None]).to(x.dtype)
        return torch.cat([mask, mask], dim=1) if self.starts is not None else mask

    # Files.

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
        rank, ratio = self.spec.dim, self._scale_in_file({ALPHA: tensors[ALPHA] / 2}) / self.spec.scale
        super().load_file_tensors(
            {**tensors, DOWN: tensors[DOWN][:rank], UP: tensors[UP][:, :rank], ALPHA: tensors[ALPHA] / 2}
        )
        with torch.no_grad():
            self.start_down.copy_(tensors[DOWN][rank:])
            self.start_up.copy_(-tensors[UP][:, rank:] * ratio)

    @torch.no_grad()
    def update_norm(self) -> Tensor:
        return super(LoRALayer, self).update_norm() if self.starts is not None else super().update_norm()


def orthonormal_rows(count: int, width: int) -> Tensor:
    """`count` random orthonormal rows (count, width) fp32; where they are more than fit, as many sets as it takes."""
    sets = [torch.linalg.qr(torch.randn(width, min(count - start, width)))[0].T for start in range(0, count, width)]
    return torch.cat(sets)
