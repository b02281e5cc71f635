"""The layers A1111 patches as they run, and which weights and biases each of them answers for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.base import working_dtype
from adapter_lab.adapters.matching import Place, plain_targets
from adapter_lab.hosts.loading.base_model import BaseModel, checkpoint_base
from adapter_lab.hosts.loading.plan import WeightPatch

# Attributes of ours on a layer. They are kept there and not here, so that they go when the model goes.
SLOTS, BACKUP = "adapter_lab_slots", "adapter_lab_backup"
# A1111's, on every layer with a name, and what no set of adapters is equal to.
NAME, PATCHED_WITH, STALE = "network_layer_name", "network_current_names", ("changed by Adapter Lab",)
# Where A1111 keeps the half-precision values of layers it stores in fp8, if told to.
HALF = {"weight": "fp16_weight", "bias": "fp16_bias"}


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor of the model that is patched when `layer` runs. key: its name in the model."""

    key: str
    layer: nn.Module
    owner: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """The tensor as it is now."""
        return getattr(self.owner, self.attribute)

    @property
    def restored_by_host(self) -> bool:
        """Whether A1111 itself puts the tensor back as it was."""
        return self.attribute in (*HALF, "in_proj_weight")

    @property
    def runs_unseen(self) -> bool:
        """Whether the layer may run without A1111 seeing it: open_clip's norms have a forward of their own."""
        return isinstance(self.layer, (nn.LayerNorm, nn.GroupNorm))

    def original(self) -> Tensor:
        """Its unpatched values, as exact as they are kept."""
        return getattr(self.owner, HALF.get(self.attribute, ""), self.tensor)


def attach_slots(model: nn.Module) -> None:
    """Note on every layer which tensors it answers for."""
    modules = dict(model.named_modules())
    for module in modules.values():
        module.__dict__.pop(SLOTS, None)
    for path, owner in modules.items():
        parent = modules.get(path.rpartition(".")[0])
        for name, parameter in owner.named_parameters(recurse=False):
            layer = owner
            if isinstance(parent, nn.MultiheadAttention):
                layer = parent  # which uses the weights of its output projection without running it
            elif name == "text_projection":
                layer = getattr(owner, "ln_final", owner)  # no layer's; the norm before it is the nearest
            if hasattr(layer, NAME) and parameter.is_floating_point():
                layer.__dict__.setdefault(SLOTS, []).append(Slot(f"{path}.{name}", layer, owner, name))


def slots_of(model: nn.Module) -> Iterator[Slot]:
    """Every slot of a model that has them attached."""
    for layer in model.modules():
        yield from layer.__dict__.get(SLOTS, ())


def base_of(model: nn.Module, name: str) -> BaseModel:
    """The loaded model, with slots attached, as a base; one of another family by A1111's own names of its layers."""
    shapes = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    known = checkpoint_base(name, shapes)
    return known or BaseModel(name, None, plain_targets(_places(model, shapes), shapes))


def _places(model: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Place]:
    """Where names in adapter files lead: A1111's names of layers, and those of diffusers if the model knows them."""
    keys = {getattr(slot.layer, NAME): slot.key for slot in slots_of(model) if slot.key.endswith(".weight")}
    places: dict[str, Place] = {f"lora_unet_{name.removeprefix('diffusion_model_')}": key for name, key in keys.items()}
    if not hasattr(model, "diffusers_weight_mapping"):
        return places
    for name, layer in model.diffusers_weight_mapping():
        fused, _, letter = layer.removesuffix("_proj").rpartition("_")
        if layer in keys:
            places[name] = keys[layer]
        elif fused in keys and letter in ("q", "k", "v"):
            third, index = shapes[keys[fused]][0] // 3, "qkv".index(letter)
            places[name] = keys[fused], (index * third, (index + 1) * third)
    return places


def change(slot: Slot, steps: Sequence[tuple[WeightPatch, float]]) -> None:
    """Patch a tensor with files at strengths, in order, each on what the one before left, rounded once."""
    tensor = slot.tensor
    if not slot.restored_by_host:
        slot.layer.__dict__.setdefault(BACKUP, {})[slot] = tensor.to("cpu", copy=True)
    original = slot.original()
    work = original.to(tensor.device, working_dtype(original.dtype), copy=True)
    with torch.no_grad():
        for patch, strength in steps:
            patch.change_(work, strength)
        tensor.copy_(work)


def put_back(layer: nn.Module) -> None:
    """Undo what `change` did to tensors that A1111 does not put back itself."""
    with torch.no_grad():
        for slot, backup in layer.__dict__.pop(BACKUP, {}).items():
            slot.tensor.copy_(backup)


def mark_stale(models: Iterable[nn.Module]) -> None:
    """Have every layer that is patched be patched again when it runs next."""
    for model in models:
        for layer in model.modules():
            if layer.__dict__.get(PATCHED_WITH):
                layer.__dict__[PATCHED_WITH] = STALE
