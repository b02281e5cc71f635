"""Patches as Neo and reForge take them: objects of a subclass of their own class of adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adapter_lab.hosts.live_weights import apply_in_fp32
from adapter_lab.hosts.plan import WeightPatch

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


def merging_in_fp32(merge: Callable[..., Tensor], dtype_argument: str) -> Callable[..., Tensor]:
    """A web UI's computation of a weight from its patches, in fp32 if one is ours, so that it is rounded once.

    `dtype_argument` names the parameter for the dtype it computes in; the result has that dtype.
    """

    def merge_in_fp32(patches: Any, weight: Tensor, key: str, *args: Any, **named: Any) -> Tensor:
        if args or not any_ours(patches):
            return merge(patches, weight, key, *args, **named)
        wanted = named.get(dtype_argument, torch.float32)
        merged = merge(patches, weight.to(torch.float32), key, **{**named, dtype_argument: torch.float32})
        return merged.to(wanted)

    return merge_in_fp32
