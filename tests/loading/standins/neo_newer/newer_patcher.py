"""What Neo 2.29 has in place of 2.26's way to patch on the fly, and its schedule of strengths.

Stand-in for `OnlineLoRAPatch` and `ModelPatcher` of its `backend.patcher.base`, and for the callback of its
`sd_forge_lora_schedule`.
"""

from __future__ import annotations

import itertools
from typing import Any

from backend.patcher import base


class OnlineLoRAPatch:
    """One patch of a weight that is computed each time it is used, with the name of its file."""

    def __init__(self, name: str, key: str, patch: list[Any]) -> None:
        self.name, self.key, self.patch = name, key, [patch]

    def __call__(self, weight: Any) -> Any:
        return base.merge_lora_to_weight(self.patch, weight, self.key, computation_dtype=weight.dtype)


class ModelPatcher(base.ModelPatcher):
    """Patches on the fly are kept apart from the others, and entries have five items."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.weight_wrapper_patches: dict[str, list[OnlineLoRAPatch]] = {}

    def has_online_lora(self) -> bool:
        return len(self.weight_wrapper_patches) > 0

    def clone(self) -> ModelPatcher:
        copied = ModelPatcher(self.model)
        copied.patches = {key: list(found) for key, found in self.patches.items()}
        copied.weight_wrapper_patches = dict(self.weight_wrapper_patches)
        copied.patches_uuid, copied.backup = self.patches_uuid, self.backup
        return copied

    def add_patches(
        self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0, *,
        filename: Any = None, online_mode: bool | None = None,
    ) -> list[str]:  # fmt: skip
        known = self.model.state_dict()
        added = [key for key in patches if key in known]
        for key in added:
            entry = (strength_patch, patches[key], strength_model, None, None)
            if online_mode:
                function = OnlineLoRAPatch(filename, key, list(entry))
                self.weight_wrapper_patches[key] = [*self.weight_wrapper_patches.get(key, []), function]
            else:
                self.patches[key] = [*self.patches.get(key, []), entry]
        return added

    def load(self, device_to: Any = None) -> None:
        self.unpatch_model()
        for key in self.patches:
            self.patch_weight_to_device(key, device_to)
        for key, functions in self.weight_wrapper_patches.items():
            path, name = key.rsplit(".", 1)
            setattr(self.model.get_submodule(path), f"{name}_function", list(functions))


def install() -> None:
    base.OnlineLoRAPatch, base.ModelPatcher = OnlineLoRAPatch, ModelPatcher


def adjust_lora(unet: Any, schedules: dict[str, list[tuple[float, float]]], time: float) -> None:
    """Before each step, at `time` from 0 to 1. schedules: file -> (strength, time) in order of time."""
    assert unet.has_online_lora()
    for functions in unet.weight_wrapper_patches.values():
        for function in functions:
            schedule = schedules.get(function.name)
            if schedule is None:
                continue
            strength = schedule[-1][0]
            for (before, start), (after, end) in itertools.pairwise(schedule):
                if start <= time < end:
                    strength = before + (after - before) * (time - start) / (end - start)
            function.patch[0][0] = strength
