"""Forge Neo: patches are objects of a class of its own; no type can be registered."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.families.weight_adapters import AdapterObjects, adapter_class, any_ours
from adapter_lab.hosts.loading.plan import WeightPatch

# How Neo's names of the conditioner's modules begin, and those in files.
CONDITIONER = (
    ("lora_te_llm_adapter", "lora_unet_llm_adapter"),
    ("text_encoders.qwen3_06b.llm_adapter", "diffusion_model.llm_adapter"),
)


class Neo(AdapterObjects):
    """sd-webui-forge-neo."""

    name = "neo"
    title = "Forge Neo"
    lora_module = "backend.patcher.lora"

    def __init__(self) -> None:
        super().__init__()
        self._patching_ours = False
        self._has_schedule = False

    def file_names(self, names: dict[str, Any]) -> dict[str, Any]:
        """Anima's conditioner is part of the transformer in files, and of the text encoder in Neo, which renames it."""
        renamed = {
            name.replace(own, in_files, 1): place
            for name, place in names.items()
            for own, in_files in CONDITIONER
            if name.startswith(own)
        }
        return {**renamed, **names}

    def tag_of(self, path: str, use: int) -> str:
        """The path, by which a schedule (`<lora:name:[1@0,0.2@0.5]>`) finds the patches whose strength it sets."""
        return path

    def keeps_at_zero(self, online: bool) -> bool:
        # Files with a schedule are loaded at 0; it then raises the strength of what is computed each time.
        return online and self._has_schedule

    def hook_weights(self, hooks: Hooks) -> None:
        self._patch_class = adapter_class(importlib.import_module(self.lora_module).weight_adapter.WeightAdapterBase)
        patcher, memory = (importlib.import_module(f"backend.{name}") for name in ("patcher.base", "memory_management"))
        self.hook_patcher(hooks, patcher.ModelPatcher, patcher, "merge_lora_to_weight", "computation_dtype")
        self._has_schedule = hasattr(patcher, "OnlineLoRAPatch")
        hooks.replace(patcher.ModelPatcher, "patch_weight_to_device", self._patch_weight)
        hooks.replace(memory, "lora_compute_dtype", self._compute_dtype)

    def _patch_weight(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def patch_weight_to_device(patcher: Any, key: str, *args: Any, **named: Any) -> Any:
            self._patching_ours = any_ours(patcher.patches.get(key, ()))
            try:
                return original(patcher, key, *args, **named)
            finally:
                self._patching_ours = False

        return patch_weight_to_device

    def _compute_dtype(self, original: Callable[..., torch.dtype]) -> Callable[..., torch.dtype]:
        """fp32 for patches of ours; on a GPU Neo would round the weight to fp16 before it patches it."""

        def lora_compute_dtype(device: Any) -> torch.dtype:
            return torch.float32 if self._patching_ours else original(device)

        return lora_compute_dtype

    def add_patches(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> None:
        made = {key: self._patch_class(patch) for key, patch in patches.items()}
        patcher.add_patches(made, strength, filename=tag, online_mode=online)

    def loads_alone(self, model: Any) -> bool:
        # Nunchaku's kernels take LoRAs by file name.
        return bool(getattr(importlib.import_module("backend.args").dynamic_args, "nunchaku", False))

    def adapter_folder(self) -> list[Path]:
        more = getattr(importlib.import_module("modules.shared").cmd_opts, "lora_dirs", None) or []
        return [*super().adapter_folder(), *(Path(folder) for folder in more)]

    def free_gpu(self) -> None:
        with importlib.import_module("modules.call_queue").queue_lock:
            importlib.import_module("modules.sd_models").unload_model_weights()


HOST = Neo()
