"""Stand-in for `backend.patcher.lora`: names of weights, and patches put on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

extra_weight_calculators: dict[str, Any] = {}


def load_lora(lora: Any, to_load: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Full differences only: enough to see that the host was asked."""
    known = {f"{name}.diff": key for name, key in to_load.items()}
    patches = {known[key]: ("diff", (tensor,)) for key, tensor in lora.items() if key in known}
    return patches, {key: tensor for key, tensor in lora.items() if key not in known}


def model_lora_keys_unet(model: Any, key_map: Any = {}) -> Any:  # noqa: B006, as in the host
    for key, _ in model.named_parameters():
        if key.startswith("diffusion_model.") and key.endswith(".weight"):
            path = key.removeprefix("diffusion_model.").removesuffix(".weight")
            key_map["lora_unet_" + path.replace(".", "_")] = key
            key_map["diffusion_model." + path] = key
    return key_map


def model_lora_keys_clip(model: Any, key_map: Any = {}) -> Any:  # noqa: B006
    for key, _ in model.named_parameters():
        if key.startswith("t5xxl.transformer.") and key.endswith(".weight"):
            path = key.removeprefix("t5xxl.transformer.").removesuffix(".weight")
            key_map["lora_te2_" + path.replace(".", "_")] = key
    return key_map


def merge_lora_to_weight(
    patches: Any, weight: Any, key: str = "online_lora", computation_dtype: torch.dtype = torch.float32
) -> Any:
    stored, weight = weight.dtype, weight.detach().to(computation_dtype, copy=True)
    for strength, patch, *_ in patches:
        kind, payload = patch
        if kind == "diff":
            weight += strength * payload[0].to(weight)
        else:
            weight = extra_weight_calculators[kind](weight, strength, payload)
    return weight.to(stored)


class LoraLoader:
    """Puts patches on a model's weights, and takes them off again."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.backup: dict[str, Any] = {}
        self.online: list[Any] = []
        self.loaded_hash = str([])

    def refresh(self, lora_patches: Any, offload_device: Any = None, force_refresh: bool = False) -> None:
        if str(list(lora_patches)) == self.loaded_hash and not force_refresh:
            return
        for key, weight in self.backup.items():
            _set(self.model, key, weight)
        for layer in self.online:
            if hasattr(layer, "forge_online_loras"):
                del layer.forge_online_loras
        self.backup, self.online = {}, []
        gathered: dict[Any, list[Any]] = {}
        for (*_, online), patches in lora_patches.items():
            for key, found in patches.items():
                gathered.setdefault((key, online), []).extend(found)
        for (key, online), found in gathered.items():
            path, name = key.rsplit(".", 1)
            layer = self.model.get_submodule(path)
            if online:
                layer.__dict__.setdefault("forge_online_loras", {})[name] = found
                self.online.append(layer)
                continue
            weight = getattr(layer, name)
            self.backup[key] = weight
            _set(self.model, key, nn.Parameter(merge_lora_to_weight(found, weight, key), requires_grad=False))
        self.loaded_hash = str(list(lora_patches))


def _set(model: Any, key: str, weight: Any) -> None:
    path, name = key.rsplit(".", 1)
    setattr(model.get_submodule(path), name, weight)
