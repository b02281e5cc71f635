"""Stand-in of ldm_patched/modules/sd.py: drops a whole file when more than 12 of its keys are unknown."""

import ldm_patched.modules.lora
from ldm_patched.modules.model_patcher import ModelPatcher


class CLIP:
    def __init__(self, target=None, embedding_directory=None, no_init=False):
        self.cond_stage_model = target
        self.patcher = ModelPatcher(target, "cpu", "cpu") if target is not None else None

    def clone(self):
        copy = CLIP(no_init=True)
        copy.cond_stage_model, copy.patcher = self.cond_stage_model, self.patcher.clone()
        return copy

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        return self.patcher.add_patches(patches, strength_patch, strength_model)


def load_lora_for_models(model, clip, lora, strength_model, strength_clip, filename="default"):
    names = ldm_patched.modules.lora
    unet_patches, rest = names.load_lora(lora, names.model_lora_keys_unet(model.model, {}))
    clip_patches, rest = names.load_lora(rest, names.model_lora_keys_clip(clip.cond_stage_model, {}))
    if len(rest) > 12:
        print(f"version mismatch: {filename}")
        return model, clip
    model, clip = model.clone(), clip.clone()
    model.add_patches(unet_patches, strength_model)
    clip.add_patches(clip_patches, strength_clip)
    return model, clip
