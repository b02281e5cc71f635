"""Weights of a loaded model: their shapes, whatever they are packed as, and patches put on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from adapter_lab.hosts.loading.plan import WeightPatch


def apply_in_fp32(patch: WeightPatch, weight: Tensor, strength: float) -> Tensor:
    """W + m (W' - W) in the dtype of W and in its place if that is fp32; on the CPU where the GPU's memory is full."""
    if weight.dtype != torch.float32 or isinstance(weight, nn.Parameter):
        weight = weight.detach()
        return apply_in_fp32(patch, weight.to(torch.float32, copy=True), strength).to(weight.dtype)
    for module in patch.modules:  # one by one, so that none is applied twice
        single = replace(patch, modules=[module])
        try:
            single.change_(weight, strength)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            on_cpu = weight.cpu()
            single.change_(on_cpu, strength)
            weight.copy_(on_cpu)
    patch.on_patched(patch, strength)
    return weight


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by name; of packed 4-bit weights, what they stand for."""
    found: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        packed = getattr(parameter, "quant_state", None)  # bitsandbytes'
        found[name] = tuple(parameter.shape if packed is None else packed.shape)
    return found
