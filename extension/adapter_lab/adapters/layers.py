"""The layers that adapter files change: their names as hosts know them, their shapes and, where needed, their weights.

With a base checkpoint all of these are its own; without one names and shapes are those of the released models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter
from adapter_lab.adapters.checkpoint import Checkpoint, open_checkpoint
from adapter_lab.adapters.family import FAMILY_NAMES, adapter_families, in_words
from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.full import Full
from adapter_lab.adapters.keys import Target, TargetTable, family_of, resolve, targets
from adapter_lab.adapters.loha import LoHa
from adapter_lab.adapters.lokr import LoKr
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.matching import match
from adapter_lab.adapters.norm import Norm
from adapter_lab.adapters.set_weight import SetWeight
from adapter_lab.adapters.standard import standard_targets
from adapter_lab.adapters.summed import Summed
from adapter_lab.adapters.tensors import Scratch
from adapter_lab.errors import AdapterLabError, FileFormatError
from adapter_lab.families import FAMILIES

# Layers that may be convolutions, by the ends of their names in LDM and diffusers spelling.
CONVOLUTIONS = re.compile(
    r"(_in_layers_2|_out_layers_3|_skip_connection|_op|_conv|_conv1|_conv2|_conv_shortcut|_conv_in|_conv_out|_0_0|_out_2)$"
)


# A weight is changed by 0.001 or so.
LARGEST = 1e15


@dataclass(frozen=True)
class Layer:
    """One layer an adapter changes: its name in files we write, its weight's shape, and where a checkpoint has it.

    shape: () where only a checkpoint would tell it.
    """

    name: str
    shape: tuple[int, ...]
    target: Target | None


class Base:
    """What is known of the model that adapters belong to: a checkpoint, or the released model of a family."""

    def __init__(self, table: TargetTable, family: str | None, checkpoint: Checkpoint | None) -> None:
        self.table = table
        self.family = family
        self.checkpoint = checkpoint

    def layers(self, file: AdapterFile) -> tuple[dict[str, Layer], dict[str, str]]:
        """The layer of each module of `file` by its name there, and why other modules have none.

        Raises FileFormatError if the file belongs to another family than the checkpoint.
        """
        if self.checkpoint is not None:
            matched = match(file, self.table, self.family, str(self.checkpoint.path))
            found = {one.name: Layer(one.target.name, one.target.shape, one.target) for one in matched.matches}
            return found, matched.not_applied
        layers: dict[str, Layer] = {}
        left_out: dict[str, str] = {}
        taken: dict[str, str] = {}
        for name in file.modules:
            try:
                layer = _layer(file, name, resolve(name, self.table))
            except ModuleError as error:
                left_out[name] = error.reason
                continue
            if layer.name in taken:
                left_out[name] = f"the file already changes this layer as {taken[layer.name]}"
                continue
            layers[name], taken[layer.name] = layer, name
        return layers, left_out

    def delta(self, file: AdapterFile, name: str, layer: Layer) -> Tensor:
        """W' - W of module `name`, of the layer's shape: fp32, or fp64 where it depends on W.

        Raises AdapterLabError where W or its shape is needed and there is no checkpoint, FileFormatError for numbers
        that no training leaves.
        """
        adapter = file.load(name)
        if adapter.uses_base:
            return usable(adapter.delta(self.weight(layer, file, adapter)), file, name)
        if not layer.shape:
            raise AdapterLabError(
                f"{file.path} does not tell the kernel of {name}, which is no layer of a released model that is known; "
                "name the checkpoint it was trained on with --base."
            )
        return usable(adapter.delta(torch.zeros(()).expand(layer.shape)), file, name)

    def weight(self, layer: Layer, file: AdapterFile, adapter: Adapter) -> Tensor:
        """The base weight W of a layer in fp64; `file` and `adapter` are named where there is no checkpoint."""
        if self.checkpoint is None or layer.target is None:
            raise AdapterLabError(
                f"What {file.path} does depends on the weights of its base model ({_kind(adapter)} in {layer.name}); "
                "name the checkpoint it was trained on with --base."
            )
        target = layer.target
        weight = self.checkpoint.read(target.key, Scratch())
        weight = weight if target.rows is None else weight[slice(*target.rows)]
        return (weight.T if target.transposed else weight).double()


def usable(delta: Tensor, file: AdapterFile, name: str) -> Tensor:
    """`delta`; raises FileFormatError, naming the module, for numbers whose squares overflow."""
    largest = max((abs(float(extreme)) for extreme in delta.aminmax()), default=0.0)
    if not largest <= LARGEST:
        raise FileFormatError(f"{file.path} is unusable: {name} changes a weight by {largest:g}; its training failed.")
    return delta


def open_base(path: str | os.PathLike[str] | None, files: Sequence[AdapterFile]) -> Base:
    """The base of these adapter files: the checkpoint at `path`, or the released model most of their modules fit.

    Raises FileFormatError for a broken checkpoint and for files of different families.
    """
    if path is not None:
        checkpoint = open_checkpoint(path)
        try:
            return Base(targets(checkpoint.shapes), family_of(checkpoint.shapes), checkpoint)
        except FileFormatError as error:
            raise FileFormatError(f"{path} cannot be used: {error}") from None
    families = [(file, own) for file in files if (own := adapter_families(file))]
    common = reduce(_in_both, (own for _, own in families), tuple(FAMILY_NAMES)) if families else ()
    if families and not common:
        said = (f"{file.path} for {in_words(own)}" for file, own in families)
        raise FileFormatError(f"These files were trained for different base models: {', '.join(said)}.")
    released = [family for family in common if family in FAMILIES]
    if len(common) == 1 and not released:
        return Base(TargetTable(), common[0], None)
    if len(released) == 1:
        return Base(standard_targets(released[0]), released[0], None)
    family = max(released, key=lambda one: _fitting(files, standard_targets(one)), default=None)
    if family is None or not _fitting(files, standard_targets(family)):
        return Base(TargetTable(), None, None)
    return Base(standard_targets(family), family, None)


def _in_both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(family for family in one if family in other)


def _fitting(files: Sequence[AdapterFile], table: TargetTable) -> int:
    """How many modules fit the layers of a released model."""
    return sum(_fits(file, name, resolve(name, table)) for file in files for name in file.modules)


def _fits(file: AdapterFile, name: str, target: Target | None) -> bool:
    try:
        return target is not None and file.outline(name).fits(target.shape)
    except ModuleError:
        return False


def _layer(file: AdapterFile, name: str, target: Target | None) -> Layer:
    outline = file.outline(name)
    if target is not None and outline.fits(target.shape):
        return Layer(target.name, target.shape, target)
    spelled, shape = target.name if target is not None else name, own_shape(outline)
    flattened = isinstance(outline, (LoHa, LoKr)) and len(shape) == 2
    unknown_kernel = flattened and CONVOLUTIONS.search(spelled.replace(".", "_"))
    return Layer(spelled, () if unknown_kernel else shape, None)


def own_shape(adapter: Adapter) -> tuple[int, ...]:
    """The shape of the weight an adapter changes as its own tensors tell, a kernel perhaps flattened into the second
    axis; () for adapters that need the base weight, which tell no shape."""
    if isinstance(adapter, Summed):
        return own_shape(adapter.inner)
    if isinstance(adapter, SetWeight):
        return tuple(adapter.value.shape)
    if isinstance(adapter, Norm):
        return tuple(adapter.w_norm.shape)
    if isinstance(adapter, Full):
        found = adapter.diff if adapter.diff is not None else adapter.bias_delta
        return () if found is None else tuple(found.shape)
    if isinstance(adapter, LoRA):
        kernel = adapter.mid.shape[2:] if adapter.mid is not None else adapter.down.shape[2:]
        return (adapter.up.shape[0], adapter.down.shape[1], *kernel)
    if isinstance(adapter, LoHa):
        if adapter.t1 is not None:
            return (adapter.w1_a.shape[1], adapter.w1_b.shape[1], *adapter.t1.shape[2:])
        return (adapter.w1_a.shape[0], adapter.w1_b[0].numel())
    if isinstance(adapter, LoKr):
        w1 = adapter.w1.shape if isinstance(adapter.w1, Tensor) else (len(adapter.w1[0]), adapter.w1[1].shape[1])
        if isinstance(adapter.w2, Tensor):
            w2: tuple[int, ...] = tuple(adapter.w2.shape)
        elif adapter.t2 is not None:
            w2 = (adapter.w2[0].shape[1], adapter.w2[1].shape[1], *adapter.t2.shape[2:])
        else:
            w2 = (len(adapter.w2[0]), adapter.w2[1][0].numel())
        return (w1[0] * w2[0], w1[1] * w2[1], *w2[2:])
    return ()


def _kind(adapter: Adapter) -> str:
    return "DoRA" if adapter.describe().get("dora") else adapter.algorithm
