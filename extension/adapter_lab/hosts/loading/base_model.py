"""The model a web UI has loaded: its family, and where each module's weight lies among the web UI's own keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from adapter_lab.adapters import anima
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import TargetTable, family_of, resolve, targets
from adapter_lab.adapters.layouts import UNET
from adapter_lab.adapters.matching import Place, plain_targets
from adapter_lab.errors import FileFormatError
from adapter_lab.families import UNETS

Shapes = Mapping[str, "tuple[int, ...]"]

# Text encoders in web UIs with ComfyUI's layout, and their prefixes in a single-file checkpoint of each family.
TEXT_ENCODERS = {row.key: {part.loaded: part.checkpoint for part in row.text} for row in UNETS.values()}
ANIMA_LAYER = ".cross_attn.output_proj"  # every block of its transformer has one
KEPT = 4  # tables kept: a base, a refiner, and those of hires fix


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A loaded model. `name` is what messages call it, `family` "sd15", "sd2", "sdxl" or None for any other."""

    name: str
    family: str | None
    table: TargetTable  # its targets' keys are the web UI's
    names: Collection[str] | None = None  # those the web UI looks up in adapter files; None: `verdict_table` knows them

    def names_all(self, modules: Iterable[str]) -> bool:
        """Whether the web UI looks all of these modules of a file up under just these names."""
        return self.names is None or all(name in self.names for name in modules)

    def only_the_web_ui_has(self, module: str) -> bool:
        """Whether the web UI has a weight for this module of a file, but we have none."""
        return self.names is not None and module in self.names and resolve(module, self.table) is None

    @cached_property
    def anima_blocks(self) -> int:
        """How many blocks an Anima transformer has; 0 for any other model."""
        keys = (target.key.removesuffix(".weight") for target in self.table.values() if self.family is None)
        return max(anima.blocks_of(key for key in keys if key.endswith(ANIMA_LAYER)), default=-1) + 1

    def spread(self, file: AdapterFile) -> tuple[Mapping[str, Sequence[str]], str]:
        """Modules of a file for a smaller variant of this model, by the names they have here, and a remark about it.

        Raises FileFormatError if the file is for a larger one.
        """
        return anima.spread(file.modules, self.anima_blocks, str(file.path), self.name)


def comfy_base(name: str, unet: Shapes, text: Shapes, names: Callable[[], Mapping[str, Any]]) -> BaseModel:
    """The base of a web UI with ComfyUI's layout.

    `unet` and `text`: shapes of the state dicts ("diffusion_model.*"; "clip_l.*", "clip_g.*"). `names` gives the web
    UI's own map from names in adapter files to keys, as ComfyUI has it, and is asked only for families we do not know.
    """
    family = _comfy_family(unet, text)
    if family is None:
        known = names()
        return BaseModel(name, None, plain_targets(_places(known), {**unet, **text}, text), frozenset(known))
    keys = {f"model.{key}": key for key in unet if key.startswith("diffusion_model.")}
    for own, prefix in TEXT_ENCODERS[family].items():
        keys |= {prefix + key.removeprefix(own): key for key in text if key.startswith(own)}
    return BaseModel(name, family, _renamed(keys, {**unet, **text}, family))


def checkpoint_base(name: str, shapes: Shapes) -> BaseModel | None:
    """The base of a web UI that keeps a checkpoint's names but for wrappers (`.wrapped.`): A1111; None if unknown."""
    keys = {key.replace(".wrapped.", "."): key for key in shapes}
    try:
        family = family_of({key: shapes[host_key] for key, host_key in keys.items()})
    except FileFormatError:
        return None
    return BaseModel(name, family, _renamed(keys, shapes, family))


def _renamed(keys: Mapping[str, str], shapes: Shapes, family: str) -> TargetTable:
    """Targets whose keys are the web UI's. keys: name in a checkpoint -> the web UI's key."""
    table = targets({key: tuple(shapes[host_key]) for key, host_key in keys.items()}, family)
    return TargetTable(
        (name, replace(target, key=keys[target.key], bias_key=target.bias_key and keys[target.bias_key]))
        for name, target in table.items()
    )


def _comfy_family(unet: Shapes, text: Shapes) -> str | None:
    """The family by the UNet alone, since every family's text encoders lie in the same layout here."""
    try:
        family = family_of({f"{UNET}{key.removeprefix('diffusion_model.')}": shape for key, shape in unet.items()})
    except FileFormatError:
        return None
    if family == "sdxl" and text and not any(key.startswith("clip_l.") for key in text):
        return None  # the refiner, whose only text encoder is SDXL's second
    # A transformer's table is made of the web UI's own map, which knows what it calls each weight of its parts.
    return family if family in UNETS else None


def _places(names: Mapping[str, Any]) -> dict[str, Place]:
    """ComfyUI's map (key, or (key, (axis, start, length)), or more) as far as it names weights or rows of them."""
    places: dict[str, Place] = {}
    for name, place in names.items():
        if isinstance(place, str):
            places[name] = place
        elif len(place) == 2 and place[1][0] == 0:
            key, (_, start, length) = place
            places[name] = (key, (start, start + length))
    return places


class BaseModels:
    """The last few `BaseModel`s, each made once while its modules live."""

    def __init__(self) -> None:
        self._kept: list[tuple[tuple[weakref.ref[Any], ...], BaseModel]] = []

    def of(self, modules: tuple[Any, ...], make: Callable[[], BaseModel]) -> BaseModel:
        """The base made of these modules (a UNet and its text encoders), by their identity."""
        for references, base in self._kept:
            if len(references) == len(modules) and all(r() is m for r, m in zip(references, modules)):
                return base
        base = make()
        alive = [kept for kept in self._kept if all(reference() is not None for reference in kept[0])]
        self._kept = [*alive, (tuple(weakref.ref(module) for module in modules), base)][-KEPT:]
        return base
