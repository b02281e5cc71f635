"""Forge-classic (Haoming02): patches are tuples of a type and a payload, as in Forge, from before Forge's backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from adapter_lab.hosts.families.forge_family import ForgeFamily
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.loading.live_weights import apply_in_fp32
from adapter_lab.hosts.loading.plan import WeightPatch

PATCH_TYPE = "adapter-lab"


class Classic(ForgeFamily):
    """sd-webui-forge-classic, branch `classic`."""

    name = "classic"
    title = "Forge-classic"
    lora_module = "ldm_patched.modules.lora"
    patch_type = PATCH_TYPE

    def hook_weights(self, hooks: Hooks) -> None:
        patcher = importlib.import_module("ldm_patched.modules.model_patcher")
        hooks.set_item(patcher.extra_weight_calculators, PATCH_TYPE, calculate)
        hooks.replace(patcher.ModelPatcher, "patch_model", self._patch_model)
        encoders = importlib.import_module("modules_forge.forge_clip")
        hooks.replace(encoders.CLIP_SD_XL_G, "encode_with_transformers", _with_current_projection)

    def _patch_model(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def patch_model(patcher: Any, device_to: Any = None, patch_weights: bool = True) -> Any:
            with self.patching(patcher.model) if patch_weights else nullcontext():
                return original(patcher, device_to, patch_weights)

        return patch_model

    def add_patches(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> None:
        patcher.add_patches({key: (PATCH_TYPE, patch) for key, patch in patches.items()}, strength)

    def free_gpu(self) -> None:
        with importlib.import_module("modules.call_queue").queue_lock:
            importlib.import_module("modules.sd_models").unload_model_weights()


def calculate(weight: Tensor, strength: float, patch: WeightPatch) -> Tensor:
    """What Forge-classic calls for a patch of our type; it may write into `weight`, which is a copy."""
    return apply_in_fp32(patch, weight, strength)


def _with_current_projection(encode: Callable[..., Any]) -> Callable[..., Any]:
    """SDXL's second text encoder keeps the projection it was made with, while patching replaces the model's."""

    def encode_with_transformers(self: Any, tokens: Any) -> Any:
        model = importlib.import_module("modules.sd_models").model_data.sd_model
        encoders = model.forge_objects.clip.cond_stage_model
        kept = self.wrapped.text_projection
        self.wrapped.text_projection = encoders.clip_g.text_projection
        try:
            return encode(self, tokens)
        finally:
            self.wrapped.text_projection = kept

    return encode_with_transformers


HOST = Classic()
