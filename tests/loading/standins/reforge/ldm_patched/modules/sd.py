"""Stand-in for `ldm_patched.modules.sd`."""

from typing import Any

import ldm_patched.modules.lora


def load_lora_for_models(
    model: Any, clip: Any, lora: Any, strength_model: float, strength_clip: float, filename: str = "default"
) -> tuple[Any, Any]:
    names: dict[str, str] = {}
    names = ldm_patched.modules.lora.model_lora_keys_unet(model.model, names)
    names = ldm_patched.modules.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    loaded = ldm_patched.modules.lora.load_lora(lora, names)
    new_model, new_clip = model.clone(), clip.clone()
    new_model.add_patches(loaded, strength_model)
    new_clip.add_patches(loaded, strength_clip)
    return new_model, new_clip
