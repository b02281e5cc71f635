"""Patches as Neo and reForge take them: objects of a subclass of their own class of adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adapter_lab.hosts.families.forge_family import ForgeFamily
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.loading.live_weights import apply_in_fp32
from adapter_lab.hosts.loading.plan import WeightPatch

ONLINE = 5  # where Neo 2.26 keeps in a patch whether its weight is computed each time it is used
OURS = "_adapter_lab"  # marks our objects, also those of a class made before a reload


def adapter_class(base: Any) -> type:
    """Our subclass of a web UI's `WeightAdapterBase`."""

    class AdapterLabPatch(base):
        name = "adapter-lab"

        def __init__(self, patch: WeightPatch) -> None:
            self.patch = patch
            # What the base class says that every adapter has. Memory is estimated from `weights`, and ours are none of
            # the web UI's: they go to the GPU one by one, while a weight is patched.
            self.loaded_keys: set[str] = set()
            self.weights: tuple[Tensor, ...] = ()

        def calculate_weight(
            self, weight: Tensor, key: str, strength: float, strength_model: float, *args: Any, **named: Any
        ) -> Tensor:
            """The patched weight, in the dtype of `weight`, which is a copy; it may be written into."""
            return apply_in_fp32(self.patch, weight, strength)

    setattr(AdapterLabPatch, OURS, True)
    return AdapterLabPatch


def any_ours(patches: Any) -> bool:
    """Whether one of a weight's patches, as the web UI keeps them, is ours."""
    return any(hasattr(patch[1], OURS) for patch in patches)


class AdapterObjects(ForgeFamily):
    """A web UI with ComfyUI's model patcher: patches are objects, kept by weight, and weights computed from them."""

    def hook_patcher(self, hooks: Hooks, patcher: Any, merging: Any, function: str, dtype_argument: str) -> None:
        """Compute weights with patches of ours in fp32, and note what all weights get.

        `patcher` is the class, `function` of the module `merging` computes a weight from its patches, in the dtype of
        its parameter `dtype_argument`, which the result has.
        """

        def make(merge: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def merge_in_fp32(patches: Any, weight: Tensor, key: str, *args: Any, **named: Any) -> Tensor:
                if args or not any_ours(patches):
                    return merge(patches, weight, key, *args, **named)
                wanted = named.get(dtype_argument, torch.float32)
                with self.patching_one():
                    merged = merge(patches, weight.to(torch.float32), key, **{**named, dtype_argument: torch.float32})
                return merged.to(wanted)

            return merge_in_fp32

        hooks.replace(merging, function, make)
        hooks.replace(patcher, "load", self._load)

    def _load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Some weights are computed when the model is loaded, some when they are used; what has no patch, never."""

        def load(patcher: Any, *args: Any, **named: Any) -> Any:
            done = original(patcher, *args, **named)
            with guarded("looking at the patches of the loaded model"):
                parts = self.parts_of(patcher.model)
                if self._loader is not None and parts:
                    self._loader.ledger.without(parts, lambda patch: _holds(patcher, patch))
            return done

        return load


def _holds(patcher: Any, patch: WeightPatch) -> bool:
    """Whether a model patcher has a patch of ours that is computed once, or each time its layer is used."""
    functions = getattr(patcher, "weight_wrapper_patches", {}).get(patch.key, ())
    each_time = [entry for one in functions for entry in getattr(one, "patch", ())]
    once: list[Any] = []
    for entry in patcher.patches.get(patch.key, ()):
        (each_time if len(entry) > ONLINE and entry[ONLINE] else once).append(entry)
    if any(getattr(entry[1], "patch", None) is patch for entry in once):
        return True
    # Only the web UI's own layers ask for functions of their weights.
    asks = hasattr(patcher.model.get_submodule(patch.key.rpartition(".")[0]), "parameters_manual_cast")
    return asks and any(getattr(entry[1], "patch", None) is patch for entry in each_time)
