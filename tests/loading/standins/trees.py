"""Modules built from nothing but tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def module_tree(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Modules with these parameters: layers of the kind their weights' shapes tell, attention where it is fused."""
    root = nn.Module()
    owners: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, _, name = key.rpartition(".")
        owners.setdefault(owner, {})[name] = tensor
    for owner, parameters in sorted(owners.items(), key=lambda item: item[0].count(".")):
        module = _ensure(root, owner, parameters)
        for name, tensor in parameters.items():
            setattr(module, name, nn.Parameter(tensor.clone(), requires_grad=False))
    return root.eval()


def _ensure(root: nn.Module, path: str, parameters: Mapping[str, Tensor]) -> nn.Module:
    module = root
    parts = path.split(".") if path else []
    for depth, part in enumerate(parts):
        if not hasattr(module, part):
            module.add_module(part, _layer(parameters) if depth == len(parts) - 1 else nn.Module())
        module = getattr(module, part)
    return module


def _layer(parameters: Mapping[str, Tensor]) -> nn.Module:
    if "in_proj_weight" in parameters:
        return nn.MultiheadAttention(parameters["in_proj_weight"].shape[1], 1)
    weight = parameters.get("weight")
    if weight is None or weight.dim() not in (1, 2, 4):
        return nn.Module()
    if weight.dim() == 1:
        return nn.LayerNorm(weight.shape[0])
    if weight.dim() == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in parameters)
    return nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias="bias" in parameters)
