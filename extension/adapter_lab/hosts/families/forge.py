"""Forge (lllyasviel): patches are tuples of a type and a payload, computed by a function registered for the type."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.hosts.families.forge_family import ForgeFamily
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.loading.live_weights import apply_in_fp32
from adapter_lab.hosts.loading.plan import WeightPatch

PATCH_TYPE = "adapter-lab"


class Forge(ForgeFamily):
    """stable-diffusion-webui-forge."""

    name = "forge"
    title = "Forge"
    lora_module = "backend.patcher.lora"
    patch_type = PATCH_TYPE

    def hook_weights(self, hooks: Hooks) -> None:
        lora = importlib.import_module(self.lora_module)
        hooks.set_item(lora.extra_weight_calculators, PATCH_TYPE, calculate)
        hooks.replace(lora.LoraLoader, "refresh", self._refresh)
        for module in (lora, importlib.import_module("backend.operations")):
            hooks.replace(module, "merge_lora_to_weight", self._merge)

    def _refresh(self, original: Callable[..., None]) -> Callable[..., None]:
        def refresh(loader: Any, lora_patches: Any, *args: Any, force_refresh: bool = False, **named: Any) -> None:
            same = str(list(lora_patches)) == loader.loaded_hash and not force_refresh  # nothing is patched then
            with nullcontext() if same else self.patching(loader.model):
                original(loader, lora_patches, *args, force_refresh=force_refresh, **named)

        return refresh

    def _merge(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """In fp32 if one of the patches is ours, on the fly too: it is rounded once."""

        def merge_lora_to_weight(
            patches: Any, weight: Any, key: str = "online_lora", computation_dtype: torch.dtype = torch.float32
        ) -> Tensor:
            if not any(_is_ours(patch[1]) for patch in patches):
                return original(patches, weight, key, computation_dtype)
            with self.patching_one():
                return original(patches, weight, key, torch.float32)

        return merge_lora_to_weight

    def add_patches(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> None:
        # Applied on the fly, patches get the weight as it is used; else as it is stored.
        model = getattr(patcher, "patcher", patcher).model
        payloads = {
            key: (PATCH_TYPE, (patch, None if online else _stored_scale(model, key))) for key, patch in patches.items()
        }
        patcher.add_patches(filename=tag, patches=payloads, strength_patch=strength, online_mode=online)

    def forget_patched(self, model: Any) -> None:
        objects = model.forge_objects_original
        for patcher in (objects.unet, getattr(objects.clip, "patcher", None)):
            loaded = getattr(patcher, "lora_loader", None)
            if loaded is not None:
                loaded.loaded_hash = ""

    def free_gpu(self) -> None:
        memory, models = (importlib.import_module(name) for name in ("backend.memory_management", "modules.sd_models"))
        with importlib.import_module("modules.call_queue").queue_lock:
            # First into main memory: Forge leaves a model that is its own no longer where it is.
            memory.unload_all_models()
            models.model_data.sd_model = models.FakeInitialModel()
            models.model_data.forge_hash = ""  # so that it is loaded when it is next needed
            gc.collect()
            memory.soft_empty_cache()


def _stored_scale(model: nn.Module, key: str) -> Tensor | None:
    """What the weights of scaled fp8 models are multiplied with when they are used; None for all others."""
    layer, _, parameter = key.rpartition(".")
    return getattr(model.get_submodule(layer), "scale_weight", None) if parameter == "weight" else None


def calculate(weight: Tensor, strength: float, payload: tuple[WeightPatch, Tensor | None]) -> Tensor:
    """What Forge calls for a patch of our type; it may write into `weight`, which is a copy."""
    patch, scale = payload
    if scale is None:
        return apply_in_fp32(patch, weight, strength)
    factor = scale.detach().to(weight)
    return apply_in_fp32(patch, weight * factor, strength) / factor


def _is_ours(payload: Any) -> bool:
    return isinstance(payload, tuple) and isinstance(payload[0], str) and payload[0] == PATCH_TYPE


HOST = Forge()
