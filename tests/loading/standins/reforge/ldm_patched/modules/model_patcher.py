"""Stand-in for `ldm_patched.modules.model_patcher`: a model and the patches to put on it, or to compute with."""

from __future__ import annotations

import uuid
from typing import Any

import ldm_patched.modules.lora
import torch
from torch import nn


class LowVramPatch:
    """A weight computed from its patches each time it is used."""

    def __init__(self, key: str, patches: Any) -> None:
        self.key, self.patches = key, patches

    def __call__(self, weight: Any) -> Any:
        return ldm_patched.modules.lora.calculate_weight(
            self.patches[self.key], weight, self.key, intermediate_dtype=weight.dtype
        )


class ModelPatcher:
    """Patches by weight; the original weights are kept while a patch is on."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.patches: dict[str, list[Any]] = {}
        self.backup: dict[str, Any] = {}
        self.patches_uuid = uuid.uuid4()

    def clone(self) -> ModelPatcher:
        copied = ModelPatcher(self.model)
        copied.patches = {key: list(found) for key, found in self.patches.items()}
        copied.patches_uuid, copied.backup = self.patches_uuid, self.backup
        return copied

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> list[str]:
        known = self.model.state_dict()
        added = [key for key in patches if key in known]
        for key in added:
            entry = (strength_patch, patches[key], strength_model, None, None)
            self.patches[key] = [*self.patches.get(key, []), entry]
        self.patches_uuid = uuid.uuid4()
        return added

    def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> None:
        path, name = key.rsplit(".", 1)
        layer = self.model.get_submodule(path)
        weight = getattr(layer, name)
        self.backup.setdefault(key, weight)
        work = weight.detach().to(torch.float32, copy=True)
        merged = ldm_patched.modules.lora.calculate_weight(self.patches[key], work, key)
        setattr(layer, name, nn.Parameter(merged.to(weight.dtype), requires_grad=False))

    def load(self, device_to: Any = None, lowvram_model_memory: int = 0) -> None:
        """Put the patches on the model, or let its layers compute them."""
        self.unpatch_model()
        for key in self.patches:
            path, name = key.rsplit(".", 1)
            if lowvram_model_memory:
                function = LowVramPatch(key, self.patches)
                setattr(self.model.get_submodule(path), f"{name}_function", [function])
            else:
                self.patch_weight_to_device(key, device_to)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        for key, weight in self.backup.items():
            path, name = key.rsplit(".", 1)
            setattr(self.model.get_submodule(path), name, weight)
        self.backup.clear()
        for layer in self.model.modules():
            layer.weight_function, layer.bias_function = [], []
