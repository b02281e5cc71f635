"""What programs call a layer in adapter files: the namings a file can be written with, and what each can hold.

docs/names.md says which programs read which.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from adapter_lab.adapters import anima
from adapter_lab.adapters.keys import Target, TargetTable
from adapter_lab.adapters.layers import Layer
from adapter_lab.adapters.options import PEFT_ENTRY
from adapter_lab.errors import AdapterLabError
from adapter_lab.families import FAMILIES, FOLDERS, TRANSFORMERS, UNET, UNETS

COMPONENTS = {UNET: "unet", **FOLDERS}
PEFT_MODEL = "base_model.model."


def _comfy(target: Target, family: str) -> str:
    if target.part != UNET:
        return FAMILIES[family].text_part(target.part).comfy + target.module
    if family in UNETS:
        return target.key.removeprefix("model.").removesuffix(".weight")
    return "diffusion_model." + anima.own_module(target.key)


def _diffusers(target: Target, family: str) -> str:
    folder = "transformer" if target.part == UNET and family in TRANSFORMERS else COMPONENTS[target.part]
    return f"{folder}.{target.module}"


@dataclass(frozen=True)
class Naming:
    """How a program names layers. `write`: a target and family to a module's name; lora_only: it holds LoRA alone."""

    write: Callable[[Target, str], str]
    lora_only: bool = False
    parts: tuple[str, ...] = tuple(COMPONENTS)

    def layers(
        self, layers: Mapping[str, Layer], table: TargetTable, family: str | None, left_out: dict[str, str]
    ) -> dict[str, Layer]:
        """The layers of a file's modules with their new names; what has none is added to `left_out`, with why.

        Raises AdapterLabError for a model that is no Stable Diffusion, whose names there is no table for.
        """
        if family is None or not table:
            raise AdapterLabError("Other names are known for SD1.5, SD2, SDXL and Anima only; leave --names out.")
        found: dict[str, Layer] = {}
        for name, layer in layers.items():
            target = table.get(layer.name)
            if target is None:
                left_out[name] = f"it is no layer of {family}, so it has no other name"
            elif target.part not in self.parts:
                left_out[name] = "PEFT keeps each model in a folder of its own, and this one is the UNet's"
            else:
                found[name] = replace(layer, name=self.write(target, family))
        return found


NAMINGS: dict[str, Naming] = {
    "ldm": Naming(lambda target, family: target.name),
    "kohya": Naming(lambda target, family: target.kohya),
    "comfy": Naming(_comfy),
    "diffusers": Naming(_diffusers, lora_only=True),
    "peft": Naming(lambda target, family: PEFT_MODEL + target.module, lora_only=True, parts=(UNET,)),
}


def peft_metadata(ranks: Mapping[str, int]) -> dict[str, str]:
    """PEFT's configuration as diffusers keeps it, of modules of these ranks by their names in the file.

    alpha is the rank in every module, which readers do not take for granted where ranks differ.
    """
    config: dict[str, object] = {}
    for start in (*(f"{component}." for component in (*COMPONENTS.values(), "transformer")), PEFT_MODEL):
        own = {name.removeprefix(start): rank for name, rank in ranks.items() if name.startswith(start)}
        if own:
            config |= {
                (start if start != PEFT_MODEL else "") + key: value for key, value in _configuration(own).items()
            }
    return {PEFT_ENTRY: json.dumps(config, separators=(",", ":"))} if config else {}


def _configuration(ranks: Mapping[str, int]) -> dict[str, object]:
    """PEFT's LoraConfig, as far as it is needed, for modules of these ranks."""
    most = Counter(ranks.values()).most_common(1)[0][0]
    other = {name.replace(".", r"\."): rank for name, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "r": most,
        "lora_alpha": most,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
    }
