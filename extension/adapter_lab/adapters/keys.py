"""One table of names: what an adapter file calls a module, in any spelling, and where that module's weight lies.

Files are written with LDM names ("lora_unet_input_blocks_4_1_proj_in"), which every host matches; files that other
programs wrote with diffusers, PEFT, ComfyUI or kohya OFT names are resolved to the same targets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from adapter_lab.adapters import anima
from adapter_lab.adapters.layouts import (
    UNET as UNET_START,
)
from adapter_lab.adapters.layouts import (
    Shapes,
    Source,
    family_of,
    text_encoder_parameters,
    unet_module_paths,
)
from adapter_lab.families import TRANSFORMERS, UNET, UNETS, DiffusionTransformer

__all__ = [
    "Source",
    "Target",
    "TargetTable",
    "family_of",
    "resolve",
    "targets",
    "text_encoder_parameters",
    "unet_module_paths",
]


@dataclass(frozen=True)
class Target:
    """One weight of a base model that an adapter module can change."""

    name: str
    part: str  # of `families.PARTS`: "unet", "te1" (the only text encoder of SD1.5 and SD2), "te2", "conditioner"
    kind: str  # "linear", "conv", "norm"
    role: str  # "attention", "feed_forward", "projection", "conv", "time_embedding", "modulation", "norm", "other"
    key: str  # tensor in a single-file checkpoint
    bias_key: str | None
    rows: tuple[int, int] | None  # rows of a fused tensor, of the bias too
    transposed: bool
    shape: tuple[int, ...]  # as the adapter sees it: (out, in), (out, in, kh, kw) or (n,)
    module: str  # diffusers or transformers module path inside its part
    kohya: str  # the name that sd-scripts gives it: diffusers' module for SD1.5 and SD2, LDM's for SDXL


class TargetTable(dict[str, Target]):
    """Targets by their LDM name, in the checkpoint's order, with an index of every other spelling."""

    @cached_property
    def aliases(self) -> dict[str, Target]:
        """Every canonical spelling (underscores, `lora_unet_`/`lora_te1_`/`lora_te2_` prefix) of every target."""
        return _aliases(self)


def targets(shapes: Shapes, family: str | None = None) -> TargetTable:
    """Every possible target of a checkpoint by LDM name; `shapes` maps its tensor names to shapes.

    `family` None: `family_of` tells it, raising FileFormatError if it is unknown. Token and position
    embeddings are not targets, nor is SD2's last text layer, which that family never runs.
    """
    family = family or family_of(shapes)
    if family in TRANSFORMERS:
        return _anima_targets(shapes, TRANSFORMERS[family])
    row, table = UNETS[family], TargetTable()
    for ldm, module in unet_module_paths(shapes).items():
        weight, bias = f"{UNET_START}{ldm}.weight", f"{UNET_START}{ldm}.bias"
        if weight in shapes:
            source = Source(weight), Source(bias) if bias in shapes else None
            name = "lora_unet_" + ldm.replace(".", "_")
            # docs/names.md: what most programs read.
            kohya = name if row.adapter_names == "ldm" else "lora_unet_" + module.replace(".", "_")
            table[name] = _target(name, UNET, module, _unet_role(ldm), *source, shapes, kohya)
    for part, parameters in text_encoder_parameters(shapes).items():
        prefix = row.text_part(part).adapter
        unused = _last_layer(parameters) if row.text_part(part).unused_layers else None
        for parameter, source_ in parameters.items():
            module, kind = parameter.rsplit(".", 1)
            if kind != "weight" or ".embeddings." in parameter or (unused and module.startswith(unused)):
                continue
            name = prefix + module.replace(".", "_")
            table[name] = _target(
                name, part, module, _text_role(module), source_, parameters.get(f"{module}.bias"), shapes
            )
    return table


def _anima_targets(shapes: Shapes, row: DiffusionTransformer) -> TargetTable:
    """Linear layers of a transformer, its conditioner and text encoder; normalisation layers stay as they are."""
    table = PlainTable()
    start = anima.prefix_of(shapes) or ""
    for key, shape in shapes.items():
        if not key.endswith(".weight") or len(shape) != 2 or key.endswith(("embed.weight", "embed_tokens.weight")):
            continue
        module = key.removeprefix(start).removesuffix(".weight")
        part = next((part for part in row.text if module.startswith(part.checkpoint)), None)
        if part is not None:
            inside = module.removeprefix(part.checkpoint)
            name, role = part.adapter + inside.replace(".", "_"), anima.role_of(inside)
        else:
            inside, role = anima.diffusers_module(module), anima.role_of(module)
            if not inside:
                continue
            name = "lora_unet_" + module.replace(".", "_")
        bias = f"{start}{module}.bias"
        where = Source(key), Source(bias) if bias in shapes else None
        table[name] = _target(name, part.key if part else UNET, inside, role, *where, shapes)
    return table


def _last_layer(parameters: Mapping[str, Source]) -> str:
    numbers = [int(found[1]) for name in parameters if (found := re.search(r"encoder\.layers\.(\d+)\.", name))]
    return f"text_model.encoder.layers.{max(numbers)}."


def _target(
    name: str,
    part: str,
    module: str,
    role: str,
    weight: Source,
    bias: Source | None,
    shapes: Shapes,
    kohya: str | None = None,
) -> Target:
    shape = tuple(shapes[weight.key])
    if weight.rows:
        shape = (weight.rows[1] - weight.rows[0], *shape[1:])
    if weight.transposed:
        shape = shape[::-1]
    kind = {1: "norm", 2: "linear", 4: "conv"}[len(shape)]
    return Target(
        name=name,
        part=part,
        kind=kind,
        role="norm" if kind == "norm" else role,
        key=weight.key,
        bias_key=bias.key if bias else None,
        rows=weight.rows,
        transposed=weight.transposed,
        shape=shape,
        module=module,
        kohya=kohya or name,
    )


def _unet_role(ldm: str) -> str:
    if ".transformer_blocks." in ldm:
        return "feed_forward" if ".ff." in ldm else "attention"
    if ldm.endswith((".proj_in", ".proj_out")):
        return "projection"
    if ldm.endswith(".emb_layers.1"):
        return "time_embedding"
    if ldm.endswith((".in_layers.2", ".out_layers.3", ".skip_connection", ".op", ".conv")):
        return "conv"
    return "other"


def _text_role(module: str) -> str:
    if ".self_attn." in module:
        return "attention"
    return "feed_forward" if ".mlp." in module else "other"


# Prefixes other programs use, and the canonical one. Longer ones first where one begins another.
PREFIXES = (
    ("base_model_model_", ""),
    ("base_model_", ""),
    ("model_diffusion_model_", "lora_unet_"),
    ("diffusion_model_", "lora_unet_"),
    ("unet_", "lora_unet_"),
    ("oft_unet_", "lora_unet_"),
    ("lycoris_unet_", "lora_unet_"),
    ("lycoris_", "lora_unet_"),
    ("oft_te1_", "lora_te1_"),
    ("oft_te2_", "lora_te2_"),
    ("oft_te_", "lora_te1_"),
    ("lora_te_", "lora_te1_"),
    ("text_encoder_2_", "lora_te2_"),
    ("text_encoder_", "lora_te1_"),
    ("text_encoders_clip_l_transformer_", "lora_te1_"),
    ("text_encoders_clip_g_transformer_", "lora_te2_"),
    ("text_encoders_clip_h_transformer_", "lora_te1_"),
    ("clip_l_transformer_", "lora_te1_"),
    ("clip_g_transformer_", "lora_te2_"),
    ("clip_h_transformer_", "lora_te1_"),
)
# Old diffusers attention processors: `attn1.processor.to_q_lora`, and `self_attn.to_q_lora` in text encoders.
PROCESSOR = re.compile(r"_processor_to_(q|k|v|out)_lora$")
TEXT_PROCESSOR = re.compile(r"_self_attn_to_(q|k|v|out)_lora$")


def canonical(name_in_file: str) -> str:
    """A module name of any spelling with underscores only and one of our prefixes (or none, if it has none)."""
    name = name_in_file.replace(".", "_")
    for prefix, replacement in PREFIXES:
        if name.startswith(prefix):
            name = replacement + name[len(prefix) :]
            # `base_model.model.` may stand before or behind the part's prefix.
            if replacement:
                name = replacement + name[len(replacement) :].removeprefix("base_model_model_")
                break
    name = PROCESSOR.sub(lambda found: f"_to_{found[1]}" + ("_0" if found[1] == "out" else ""), name)
    return TEXT_PROCESSOR.sub(lambda found: f"_self_attn_{found[1]}_proj", name)


def _aliases(table: Mapping[str, Target]) -> dict[str, Target]:
    aliases: dict[str, Target] = {}
    single_encoder = not any(target.part == "te2" for target in table.values())
    for target in table.values():
        path = target.module.replace(".", "_")
        part = f"lora_{target.part}_"
        names = [target.name.replace("lora_te_", "lora_te1_"), part + path]
        if target.part == UNET:
            names.append(path)
        else:
            names.append(part + path.removeprefix("text_model_"))
            if single_encoder:  # without a prefix the two encoders of SDXL cannot be told apart
                names += [path, path.removeprefix("text_model_")]
        for name in names:
            aliases.setdefault(name, target)
    return aliases


# How a web UI's names of a transformer's modules begin, and how those of other programs may begin in place of it.
OWN_PREFIX = r"^lora_unet_|^lora_te1_(?=llm_adapter_)"
OTHER_PREFIXES = ("", "lora_unet_", "net_", "transformer_", "lora_transformer_")


class PlainTable(TargetTable):
    """Targets of a transformer, or of a base of an unknown family under the names its host has for them."""

    @cached_property
    def aliases(self) -> dict[str, Target]:
        aliases: dict[str, Target] = {}
        for name, target in self.items():
            aliases.setdefault(canonical(name), target)
        for name, target in list(aliases.items()):
            own = re.sub(OWN_PREFIX, "", name)
            for spelled in (own, *anima.other_names(own)) if own != name else ():
                for prefix in OTHER_PREFIXES:
                    aliases.setdefault(prefix + spelled, target)
            for start in anima.OTHER_TEXT_STARTS if name.startswith(anima.TEXT_START) else ():
                aliases.setdefault(start + name.removeprefix(anima.TEXT_START), target)
        return aliases


def resolve(name_in_file: str, table: Mapping[str, Target]) -> Target | None:
    """The target a module name of an adapter file means, in any spelling; None if this base has no such module.

    `table` is what `targets` returned (a plain dict works too, but its index is then built on every call).
    """
    if name_in_file in table:
        return table[name_in_file]
    aliases = table.aliases if isinstance(table, TargetTable) else _aliases(table)
    return aliases.get(canonical(name_in_file))
