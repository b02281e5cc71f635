"""Stand-in for `backend.patcher.lora`: names of weights, and weights from patches."""

from __future__ import annotations

from typing import Any

import torch
from modules_forge.packages.comfy import weight_adapter


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
        elif key.startswith("qwen3_06b.") and key.endswith(".weight"):
            path = key.removeprefix("qwen3_06b.").removeprefix("model.").removesuffix(".weight")
            key_map["text_encoders." + key.removesuffix(".weight")] = key
            key_map["lora_te_" + path.replace(".", "_")] = key
    return key_map


def merge_lora_to_weight(
    patches: list[Any], weight: torch.Tensor, key: str, computation_dtype: torch.dtype = torch.float32
) -> Any:
    for strength, patch, strength_model, offset, function, *_ in patches:
        if isinstance(patch, weight_adapter.WeightAdapterBase):
            weight = patch.calculate_weight(weight, key, strength, strength_model, offset, function, computation_dtype)
        elif patch[0] == "diff":
            weight += strength * patch[1][0].to(weight)
        else:
            raise ValueError(patch[0])
    return weight
