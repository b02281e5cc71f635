"""reForge: ComfyUI's model patcher behind Forge's first `networks`; patches are objects of a class of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.families.weight_adapters import AdapterObjects, adapter_class
from adapter_lab.hosts.loading.plan import WeightPatch


class ReForge(AdapterObjects):
    """stable-diffusion-webui-reForge."""

    name = "reforge"
    title = "reForge"
    lora_module = "ldm_patched.modules.lora"

    def hook_weights(self, hooks: Hooks) -> None:
        module = importlib.import_module(self.lora_module)
        self._patch_class = adapter_class(module.weight_adapter.WeightAdapterBase)
        patcher = importlib.import_module("ldm_patched.modules.model_patcher").ModelPatcher
        self.hook_patcher(hooks, patcher, module, "calculate_weight", "intermediate_dtype")

    def add_patches(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> None:
        patcher.add_patches({key: self._patch_class(patch) for key, patch in patches.items()}, strength)

    def free_gpu(self) -> None:
        management = importlib.import_module("ldm_patched.modules.model_management")
        with importlib.import_module("modules.call_queue").queue_lock:
            management.unload_all_models()
            management.soft_empty_cache(force=True)


HOST = ReForge()
