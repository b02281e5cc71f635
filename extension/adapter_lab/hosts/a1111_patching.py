"""Patching A1111's layers with the prompt's adapter files, each layer when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapter_lab.hosts.a1111_layers import BACKUP, PATCHED_WITH, SLOTS, Slot, change, put_back, slots_of
from adapter_lab.hosts.hooks import Hooks
from adapter_lab.hosts.plan import Plan, WeightPatch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Step:
    """One file of the prompt that is ours, and how strongly it is applied."""

    plan: Plan
    te_strength: float
    unet_strength: float

    def strength(self, part: str) -> float:
        """The strength for a part of the model: "unet", "te1" or "te2"."""
        return self.unet_strength if part == "unet" else self.te_strength


class Patching:
    """Stands in for the functions of `networks` that patch a layer and put it back.

    `before` is called whenever a layer is about to run, and may set other `steps`.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self.steps: list[Step] = []
        self._before = before

    def hook(self, hooks: Hooks, networks: Any) -> None:
        """Put the stand-ins into A1111's module `networks`."""
        hooks.replace(networks, "network_apply_weights", self._apply_weights)
        hooks.replace(networks, "network_forward", lambda original: self._forward(original, networks))
        hooks.replace(networks, "network_restore_weights_from_backup", self._restore)
        hooks.replace(networks, "network_reset_cached_weight", self._reset)

    def patch_what_runs_unseen(self, networks: Any, models: Iterable[nn.Module]) -> None:
        """Patch, or put back, the layers A1111 would only look at if it saw them run."""
        with torch.no_grad():
            for slot in (slot for model in models for slot in slots_of(model) if slot.runs_unseen):
                if slot.layer.__dict__.get(PATCHED_WITH) or self._steps_of(slot):
                    networks.network_apply_weights(slot.layer)

    def _steps_of(self, slot: Slot) -> list[tuple[WeightPatch, float]]:
        found = ((step, step.plan.patches.get(slot.key)) for step in self.steps)
        return [(patch, step.strength(patch.part)) for step, patch in found if patch is not None]

    def _apply_weights(self, original: Function) -> Function:
        def network_apply_weights(layer: nn.Module) -> None:
            self._before()
            patched_with = layer.__dict__.get(PATCHED_WITH)
            original(layer)  # puts the layer back as it was, if the prompt's adapters are others than before
            if layer.__dict__.get(PATCHED_WITH) is patched_with:
                return
            for slot in layer.__dict__.get(SLOTS, ()):
                steps = self._steps_of(slot)
                if steps:
                    change(slot, steps)

        return network_apply_weights

    def _forward(self, original: Function, networks: Any) -> Function:
        def network_forward(org_module: nn.Module, input: Any, original_forward: Function) -> Any:
            # "Old method": differences are added to a layer's output, which not all of our adapters are.
            if self.steps:
                networks.network_apply_weights(org_module)
                return original_forward(org_module, input)
            if org_module.__dict__.get(PATCHED_WITH):
                networks.network_restore_weights_from_backup(org_module)
                networks.network_reset_cached_weight(org_module)
            return original(org_module, input, original_forward)

        return network_forward

    def _restore(self, original: Function) -> Function:
        def network_restore_weights_from_backup(layer: nn.Module) -> None:
            put_back(layer)
            original(layer)

        return network_restore_weights_from_backup

    def _reset(self, original: Function) -> Function:
        def network_reset_cached_weight(layer: nn.Module) -> None:
            layer.__dict__.pop(BACKUP, None)  # its weights are new
            original(layer)

        return network_reset_cached_weight
