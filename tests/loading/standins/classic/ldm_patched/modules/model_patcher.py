"""Stand-in of ldm_patched/modules/model_patcher.py: weights are patched in fp32 and put back from a backup."""

import torch

extra_weight_calculators = {}


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, current_device=None, weight_inplace_update=False):
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device
        self.patches = {}
        self.backup = {}
        self.model_keys = set(model.state_dict())

    def clone(self):
        copy = ModelPatcher(self.model, self.load_device, self.offload_device)
        copy.patches = {key: list(patches) for key, patches in self.patches.items()}
        return copy

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        known = [key for key in patches if key in self.model_keys]
        for key in known:
            self.patches.setdefault(key, []).append((strength_patch, patches[key], strength_model))
        return known

    def patch_model(self, device_to=None, patch_weights=True):
        parameters = self.model.state_dict()
        for key, patches in self.patches.items():
            weight = parameters[key]
            self.backup.setdefault(key, weight)
            changed = self.calculate_weight(patches, weight.to(torch.float32, copy=True), key).to(weight.dtype)
            self._set(key, changed)
        return self.model

    def calculate_weight(self, patches, weight, key):
        for strength, (kind, value), _ in patches:
            if kind == "lora":
                up, down, alpha, _ = value
                scale = strength * (alpha / len(down) if alpha is not None else 1.0)
                weight += scale * (up.float().flatten(1) @ down.float().flatten(1)).reshape(weight.shape)
            elif kind == "diff":
                weight += strength * value[0]
            elif kind in extra_weight_calculators:
                weight = extra_weight_calculators[kind](weight, strength, value)
            else:
                print("patch type not recognized", kind, key)
        return weight

    def unpatch_model(self, device_to=None):
        for key, weight in self.backup.items():
            self._set(key, weight)
        self.backup = {}

    def _set(self, key, weight):
        module, name = key.rsplit(".", 1)
        setattr(self.model.get_submodule(module), name, torch.nn.Parameter(weight, requires_grad=False))
