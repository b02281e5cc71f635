"""Patching A1111's layers with the prompt's adapter files, each layer when it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapter_lab.hosts.families.a1111_layers import BACKUP, NAME, PATCHED_WITH, SLOTS, Slot, change, put_back, slots_of
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.loading.plan import Plan, WeightPatch

Function = Callable[..., Any]


# sd-webui-lora-block-weight tells what to scale, and where, by the name of a module's class: this is A1111's for full
# differences.
Handle = type("NetworkModuleFull", (), {"weight": torch.ones(())})


class Handles(dict[str, Any]):
    """What stands for a file's modules in A1111's record of it, by A1111's names of the layers they change.

    Whoever goes over them and scales them, as other extensions do for strengths by block, scales what we apply. A1111
    itself asks for a layer's, and is to find nothing to apply.
    """

    def get(self, key: str, default: Any = None) -> Any:
        return default

    def __contains__(self, key: object) -> bool:
        return False

    def factor(self, layer: str) -> float:
        """What a layer's strength is multiplied with."""
        return float(self[layer].weight)


@dataclass(frozen=True)
class Step:
    """One file of the prompt that is ours, with A1111's record of it, where other extensions change strengths."""

    plan: Plan
    record: Any
    handles: Handles

    @classmethod
    def begin(cls, plan: Plan, record: Any, layers: Mapping[str, str]) -> Step:
        """`layers`: A1111's name of the layer that answers for a weight, by the weight's key."""
        record.modules = handles = Handles({layers[key]: Handle() for key in plan.patches})
        return cls(plan, record, handles)

    def strength(self, part: str, layer: str) -> float:
        """The strength at this moment for a layer of a part ("unet", "te1" or "te2") of the model."""
        strength = self.record.unet_multiplier if part == "unet" else self.record.te_multiplier
        return float(strength) * self.handles.factor(layer)


class Patching:
    """Stands in for the functions of `networks` that patch a layer and put it back.

    `before` is called whenever a layer is about to run, and may set other `steps`; `patched` is told what files, by
    path, a weight was patched with, at which strengths.
    """

    def __init__(self, before: Callable[[], None], patched: Callable[[str, dict[str, float]], None]) -> None:
        self.steps: list[Step] = []
        self._before, self._patched = before, patched
        self._strengths: tuple[tuple[Any, float, float], ...] = ()  # what layers that run unseen are patched with

    def hook(self, hooks: Hooks, networks: Any) -> None:
        """Put the stand-ins into A1111's module `networks`."""
        hooks.replace(networks, "network_apply_weights", lambda original: self._apply_weights(original, networks))
        hooks.replace(networks, "network_forward", lambda original: self._forward(original, networks))
        hooks.replace(networks, "network_restore_weights_from_backup", self._restore)
        hooks.replace(networks, "network_reset_cached_weight", self._reset)

    def unloaded(self, networks: Any) -> set[str]:
        """The paths of the prompt's files that are ours and that another extension has unloaded."""
        loaded = {id(record) for record in networks.loaded_networks}
        kept = {step.plan.path for step in self.steps if id(step.record) in loaded}
        return {step.plan.path for step in self.steps} - kept

    def follow_strengths(self, networks: Any, models: Iterable[nn.Module]) -> None:
        """Patch again what runs unseen, if other extensions have changed the strengths of the prompt's files since."""
        if self._strengths != _strengths(networks):
            self.patch_what_runs_unseen(networks, models)

    def patch_what_runs_unseen(self, networks: Any, models: Iterable[nn.Module]) -> None:
        """Patch, or put back, the layers A1111 would only look at if it saw them run."""
        self._strengths = _strengths(networks)
        with torch.no_grad():
            for slot in (slot for model in models for slot in slots_of(model) if slot.runs_unseen):
                if slot.layer.__dict__.get(PATCHED_WITH) or self._steps_of(slot, networks.loaded_networks):
                    networks.network_apply_weights(slot.layer)

    def _steps_of(self, slot: Slot, records: Collection[Any]) -> list[tuple[Step, WeightPatch, float]]:
        """The steps that change a weight; `records`: A1111's of the files it has loaded, ours or not."""
        layer = getattr(slot.layer, NAME)
        found = ((step, step.plan.patches.get(slot.key)) for step in self.steps)
        return [
            (step, patch, step.strength(patch.part, layer))
            for step, patch in found
            if patch is not None and any(record is step.record for record in records)
        ]

    def _apply_weights(self, original: Function, networks: Any) -> Function:
        def network_apply_weights(layer: nn.Module) -> None:
            self._before()
            patched_with = layer.__dict__.get(PATCHED_WITH)
            original(layer)  # puts the layer back as it was, if the prompt's adapters are others than before
            if layer.__dict__.get(PATCHED_WITH) is patched_with:
                return
            for slot in layer.__dict__.get(SLOTS, ()):
                steps = self._steps_of(slot, networks.loaded_networks)
                strengths: dict[str, float] = {}
                for step, _, strength in steps:
                    strengths[step.plan.path] = strengths.get(step.plan.path, 0.0) + strength
                if any(strength for _, _, strength in steps):
                    change(slot, [(patch, strength) for _, patch, strength in steps])
                self._patched(slot.key, strengths)

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


def _strengths(networks: Any) -> tuple[tuple[Any, float, float], ...]:
    """What A1111 tells a set of adapters from another by."""
    return tuple((record.name, record.te_multiplier, record.unet_multiplier) for record in networks.loaded_networks)
