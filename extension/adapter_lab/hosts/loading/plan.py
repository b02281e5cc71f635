"""The patches an adapter file stands for in one loaded model: what a web UI applies to its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, patch_, patch_bias_, working_dtype
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import Target
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.matching import Matched
from adapter_lab.adapters.tensors import is_finite
from adapter_lab.hosts.loading.precision import exact


@dataclass(frozen=True)
class ModulePatch:
    """One module's change of one weight or bias; `wild`: its numbers are so large that the result is looked at."""

    name: str  # of the module in the file
    adapter: Adapter
    target: Target
    of_bias: bool
    wild: bool

    def add_to(self, weight: Tensor, strength: float) -> None:
        """Turn W, in fp32 or fp64, into W + m (W' - W) in place."""
        rows = weight if self.target.rows is None else weight[slice(*self.target.rows)]
        if self.of_bias:
            patch_bias_(rows, self.adapter, strength)
        else:
            patch_(rows.T if self.target.transposed else rows, self.adapter, strength)


@dataclass
class WeightPatch:
    """All changes one file makes to one tensor of a model. key: the web UI's; part: "unet", "te1" or "te2"."""

    key: str
    part: str
    modules: list[ModulePatch] = field(default_factory=list)
    on_failure: Callable[[str, str], None] = lambda module, reason: None
    on_patched: Callable[[WeightPatch, float], None] = lambda patch, strength: None

    @property
    def of_bias(self) -> bool:
        """Whether the tensor is a layer's bias."""
        return self.modules[0].of_bias

    def apply_(self, weight: Tensor, strength: float) -> None:
        """Turn W, in fp32 or fp64, into W + m (W' - W) in place, and tell `on_patched` so."""
        self.change_(weight, strength)
        self.on_patched(self, strength)

    def change_(self, weight: Tensor, strength: float) -> None:
        """What `apply_` does to W, told to nobody.

        A module that cannot be computed leaves its rows as they were and is told to `on_failure`.
        """
        if strength == 0:
            return
        with exact(weight.device):
            for module in self.modules:
                reason = _tried(module, weight, strength)
                if reason:
                    self.on_failure(module.name, reason)

    @torch.no_grad()
    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """W + m (W' - W) in the dtype of W, computed in fp32 (fp64 for fp64) and rounded once. W is kept as it was."""
        work = weight.to(working_dtype(weight.dtype), copy=True)
        self.apply_(work, strength)
        return work.to(weight.dtype)

    @torch.no_grad()
    def delta(self, weight: Tensor, strength: float) -> Tensor:
        """m (W' - W) in fp32 (fp64 for fp64), for web UIs that add differences."""
        work = weight.to(working_dtype(weight.dtype), copy=True)
        self.change_(work, strength)
        return work.sub_(weight)


def _tried(module: ModulePatch, weight: Tensor, strength: float) -> str | None:
    """Add a module to a weight; why it could not be, the weight then being as before, else None."""
    before = weight.clone() if module.wild else None
    try:
        module.add_to(weight, strength)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a broken file makes of the arithmetic, the image is to be finished
        return (str(error) or type(error).__name__).splitlines()[0]
    if before is None or is_finite(weight):
        return None
    weight.copy_(before)
    return "its numbers are too large"


@dataclass
class Plan:
    """One file's patches by the web UI's keys."""

    path: str
    patches: dict[str, WeightPatch]

    @property
    def modules(self) -> set[str]:
        """The modules of the file that change something, by their names in it."""
        return {module.name for patch in self.patches.values() for module in patch.modules}

    def of(self, *parts: str) -> dict[str, WeightPatch]:
        """The patches of these parts ("unet"; "te1", "te2")."""
        return {key: patch for key, patch in self.patches.items() if patch.part in parts}

    @property
    def unet(self) -> dict[str, WeightPatch]:
        """The UNet's patches, or those of what stands in its place."""
        return self.of("unet")

    @property
    def text(self) -> dict[str, WeightPatch]:
        """The text encoders' patches."""
        return self.of("te1", "te2")


def make_plan(
    file: AdapterFile, matched: Matched, adapters: Mapping[str, Adapter], wild: Collection[str], dyn: int | None = None
) -> Plan:
    """The patches of a file's modules that match and could be loaded; `dyn` keeps the first ranks of LoRAs only."""
    patches: dict[str, WeightPatch] = {}
    for match in matched.matches:
        adapter, target = adapters.get(match.name), match.target
        if adapter is None:
            continue
        changes = [(target.key, False)] if file.has_weight(match.name) else []
        if adapter.bias_delta is not None and target.bias_key is not None:
            changes.append((target.bias_key, True))
        for key, of_bias in changes:
            module = ModulePatch(match.name, limited(adapter, dyn), target, of_bias, match.name in wild)
            patches.setdefault(key, WeightPatch(key, target.part)).modules.append(module)
    return Plan(str(file.path), patches)


def limited(adapter: Adapter, dyn: int | None) -> Adapter:
    """A LoRA of its first `dyn` ranks at its own scale, as A1111's `dyn=` means it; any other adapter as it is."""
    if dyn is None or not isinstance(adapter, LoRA) or adapter.mid is not None:
        return adapter
    first = replace(adapter, up=adapter.up[:, :dyn], down=adapter.down[:dyn])
    first.bias_delta = adapter.bias_delta
    return first
