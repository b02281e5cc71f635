"""Stand-in for `backend.patcher.base`: a model and the patches to put on it."""

from __future__ import annotations

from typing import Any

from backend.patcher.lora import LoraLoader


class ModelPatcher:
    """Patches by (file, strengths, mode), and by weight inside."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.lora_patches: dict[Any, dict[str, list[Any]]] = {}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader = model.lora_loader

    def clone(self) -> ModelPatcher:
        copied = ModelPatcher(self.model)
        copied.lora_patches = dict(self.lora_patches)
        return copied

    def add_patches(
        self, *, filename: str, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0,
        online_mode: bool = False,
    ) -> set[Any]:  # fmt: skip
        known = {name for name, _ in self.model.named_parameters()}
        added = {key: patch for key, patch in patches.items() if key in known}
        self.lora_patches[filename, strength_patch, strength_model, online_mode] = {
            key: [[strength_patch, patch, strength_model, None, None]] for key, patch in added.items()
        }
        return set(added)

    def refresh_loras(self) -> None:
        self.lora_loader.refresh(lora_patches=self.lora_patches)
