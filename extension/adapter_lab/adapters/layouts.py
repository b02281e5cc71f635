"""Where each module of a diffusers pipeline lies in a single-file (LDM) checkpoint of SD1.5, SD2.x and SDXL.

The tables follow the structure found in the file, so that any width and depth with these names works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter_lab.adapters import anima
from adapter_lab.errors import FileFormatError
from adapter_lab.families import UNETS, of_unet

Shapes = Mapping[str, "tuple[int, ...]"]

UNET = "model.diffusion_model."
# Text encoders by how their tensors' names begin in a file. SD1.5 and SD2 have one, SDXL has two.
TEXT_ENCODERS = {part.checkpoint: part for row in UNETS.values() for part in row.text}

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OPEN_CLIP_ENDS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection.weight": "text_projection.weight",
}
OTHER_MODELS = {
    "double_blocks.": "a Flux model",
    "joint_blocks.": "a Stable Diffusion 3 model",
    "model.diffusion_model.down_blocks.": "a Stable Cascade model",
    "transformer_blocks.0.attn.": "a diffusion transformer",
}


@dataclass(frozen=True)
class Source:
    """Where a transformers parameter lies in the file: the tensor, its rows if fused, and whether it is transposed."""

    key: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


# What a UNet is given tells more than the text encoders that somebody put beside it.
SIZED_FIRST = sorted(UNETS.values(), key=lambda row: not row.sized)


def family_of(shapes: Shapes) -> str:
    """The base-model family of a checkpoint, by a key of `FAMILIES`.

    `shapes` maps tensor names to shapes. Raises FileFormatError for anything else, saying what it looks like.
    """
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        if (start := anima.prefix_of(shapes)) is not None:
            return _of_cosmos(shapes, start)
        for marker, what in OTHER_MODELS.items():
            if any(marker in key for key in shapes):
                raise FileFormatError(f"This is {what}; Adapter Lab supports SD1.5, SD2.x, SDXL and Anima.")
        raise FileFormatError(
            f"This is no checkpoint of SD1.5, SD2.x, SDXL or Anima: it has neither {UNET}input_blocks.0.0.weight nor "
            f"{anima.MARK}."
        )
    if f"{UNET}label_emb.0.0.weight" in shapes:
        if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
            raise FileFormatError("This is an SDXL refiner; Adapter Lab supports SDXL base checkpoints only.")
    marked = next((row for row in SIZED_FIRST if any(key.startswith(row.marks) for key in shapes)), None)
    if marked is not None:
        return marked.key
    projections = [shape for key, shape in shapes.items() if key.startswith(UNET) and key.endswith("proj_in.weight")]
    return of_unet(False, bool(projections) and len(projections[0]) == 2).key


def _of_cosmos(shapes: Shapes, start: str) -> str:
    """Anima among the models of its class, which it is the only one of with a conditioner."""
    if f"{start}llm_adapter.embed.weight" in shapes:
        return "anima"
    raise FileFormatError(
        "This is Cosmos Predict2's transformer, or Anima's without its text conditioner (llm_adapter); Adapter Lab "
        "needs Anima's whole file."
    )


def _modules(keys: Iterable[str], prefix: str) -> dict[str, None]:
    """The modules below `prefix` that have a weight or bias, in the file's order (a dict used as an ordered set)."""
    names = (key[len(prefix) :] for key in keys if key.startswith(prefix))
    return {name.rsplit(".", 1)[0]: None for name in names if name.endswith((".weight", ".bias"))}


def _sorted_blocks(modules: Iterable[str], side: str) -> list[tuple[int, dict[int, list[str]]]]:
    """Blocks of `input_blocks` or `output_blocks` in order: (number, {sub-block number: module paths inside it})."""
    blocks: dict[int, dict[int, list[str]]] = {}
    for module in modules:
        found = re.match(rf"{side}\.(\d+)\.(\d+)(?:\.(.+))?$", module)
        if found:
            blocks.setdefault(int(found[1]), {}).setdefault(int(found[2]), []).append(found[3] or "")
    return sorted(blocks.items())


def _resnet_or_attention(ldm: str, inside: list[str], resnet: str, attention: str) -> dict[str, str]:
    if any(path in RESNET for path in inside):
        return {f"{ldm}.{path}": f"{resnet}.{RESNET[path]}" for path in inside if path in RESNET}
    return {f"{ldm}.{path}": f"{attention}.{path}" for path in inside}


def unet_module_paths(shapes: Shapes) -> dict[str, str]:
    """Every UNet module with parameters: its LDM path ("input_blocks.4.1.proj_in") to its diffusers path.

    `shapes` maps tensor names of the single file to shapes.
    """
    modules = _modules(shapes, UNET)
    paths = {ldm: diffusers for ldm, diffusers in UNET_ENDS.items() if ldm in modules}
    level = index = 0
    for number, parts in _sorted_blocks(modules, "input_blocks"):
        if number == 0:
            continue
        for part, inside in sorted(parts.items()):
            ldm = f"input_blocks.{number}.{part}"
            if inside == ["op"]:
                paths[f"{ldm}.op"] = f"down_blocks.{level}.downsamplers.0.conv"
                level, index = level + 1, -1
                continue
            block = f"down_blocks.{level}"
            paths |= _resnet_or_attention(ldm, inside, f"{block}.resnets.{index}", f"{block}.attentions.{index}")
        index += 1
    paths |= _middle_paths(modules)
    level = index = 0
    for number, parts in _sorted_blocks(modules, "output_blocks"):
        block, last = f"up_blocks.{level}", False
        for part, inside in sorted(parts.items()):
            ldm = f"output_blocks.{number}.{part}"
            if inside == ["conv"]:
                paths[f"{ldm}.conv"] = f"{block}.upsamplers.0.conv"
                last = True
                continue
            paths |= _resnet_or_attention(ldm, inside, f"{block}.resnets.{index}", f"{block}.attentions.{index}")
        level, index = (level + 1, 0) if last else (level, index + 1)
    return paths


def _middle_paths(modules: Iterable[str]) -> dict[str, str]:
    """Paths of the middle block: resnets and transformers in turn."""
    parts: dict[int, list[str]] = {}
    for module in modules:
        found = re.match(r"middle_block\.(\d+)\.(.+)$", module)
        if found:
            parts.setdefault(int(found[1]), []).append(found[2])
    paths: dict[str, str] = {}
    resnets = attentions = 0
    for part, inside in sorted(parts.items()):
        paths |= _resnet_or_attention(
            f"middle_block.{part}", inside, f"mid_block.resnets.{resnets}", f"mid_block.attentions.{attentions}"
        )
        is_resnet = any(path in RESNET for path in inside)
        resnets, attentions = (resnets + 1, attentions) if is_resnet else (resnets, attentions + 1)
    return paths


def text_encoder_parameters(shapes: Shapes) -> dict[str, dict[str, Source]]:
    """Every text-encoder parameter by part ("te1", "te2") and transformers name ("text_model.encoder.layers.0...").

    Follows CLIPTextModel of transformers 4 (with `text_model.`; transformers 5 leaves that out inside CLIPTextModel);
    an OpenCLIP file's fused q, k, v and transposed projection become `rows` and `transposed`.
    """
    encoders: dict[str, dict[str, Source]] = {}
    for prefix, part in TEXT_ENCODERS.items():
        found: dict[str, Source] = {}
        for key, shape in shapes.items():
            if key.startswith(prefix):
                found |= _text_parameter(key, key[len(prefix) :], shape, with_projection=part.pooled)
        if found:
            encoders[part.key] = found
    return encoders


def _text_parameter(key: str, name: str, shape: tuple[int, ...], with_projection: bool) -> dict[str, Source]:
    """The transformers parameters one tensor of a text encoder holds: none, one, or three (fused q, k, v)."""
    if name.endswith(("position_ids", "logit_scale")):
        return {}
    if name.startswith("transformer."):
        name = name.removeprefix("transformer.")
        if name.startswith("text_projection"):
            return {name: Source(key)} if with_projection else {}
        # Some old merges lost `text_model.`
        return {name if name.startswith("text_model.") else f"text_model.{name}": Source(key)}
    name = name.removeprefix("model.")
    if name.startswith("text_projection") and not with_projection:
        return {}  # SD2 does not use it, and CLIPTextModel has none.
    if name == "text_projection":
        return {"text_projection.weight": Source(key, transposed=True)}
    if name in OPEN_CLIP_ENDS:
        return {OPEN_CLIP_ENDS[name]: Source(key)}
    found = re.match(r"transformer\.resblocks\.(\d+)\.(.+)$", name)
    if not found:
        return {}
    layer, inside = f"text_model.encoder.layers.{found[1]}", found[2]
    if inside in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind, third = inside.rsplit("_", 1)[1], shape[0] // 3
        return {
            f"{layer}.self_attn.{letter}_proj.{kind}": Source(key, (third * i, third * (i + 1)))
            for i, letter in enumerate("qkv")
        }
    module, kind = inside.rsplit(".", 1)
    return {f"{layer}.{OPEN_CLIP_LAYER[module]}.{kind}": Source(key)} if module in OPEN_CLIP_LAYER else {}
