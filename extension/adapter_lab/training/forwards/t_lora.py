"""T-LoRA: dW = scale up M down, where M leaves out the last ranks of each sample by how much of it is noise."""

from __future__ import annotations

import torch
from torch import Tensor

from adapter_lab.training.forwards.lora import LoRALayer
from adapter_lab.training.forwards.low_rank import low_rank_delta


class TLoRALayer(LoRALayer):
    """LoRA's parameters and files; only what takes part in a step differs."""

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
        """1 for each rank that takes part, (B, r), or twice as many where it has start factors; None: all do."""
        shares = self.noise_shares() if self.training else None
        if shares is None:
            return None
        rank, stated = self.spec.dim, self.spec.min_rank
        least = rank // 2 if isinstance(stated, str) else min(stated, rank)
        kept = least + ((1 - shares) ** self.spec.rank_power * (rank - least)).floor()
        mask = (torch.arange(rank, device=shares.device) < kept[:, None]).to(x.dtype)
        return torch.cat([mask, mask], dim=1) if self.starts is not None else mask
