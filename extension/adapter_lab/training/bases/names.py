"""Names of a diffusers pipeline's modules in a single-file (LDM) checkpoint.

The VAE both ways, UNet and text encoders on the way out; their way in is `adapter_lab.adapters.layouts`, and the two
directions are tested against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from adapter_lab.adapters.layouts import OPEN_CLIP_ENDS, OPEN_CLIP_LAYER, RESNET, UNET_ENDS

VAE = "first_stage_model."

VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VAE_ENDS = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.norm_out": "encoder.conv_norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.norm_out": "decoder.conv_norm_out",
    "decoder.conv_out": "decoder.conv_out",
    "quant_conv": "quant_conv",
    "post_quant_conv": "post_quant_conv",
}
# Names of the VAE's attention in diffusers folders written before diffusers 0.15.
OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae_module_paths(modules: Iterable[str]) -> dict[str, str]:
    """Diffusers' path of every VAE module, by its LDM path without the `first_stage_model.` prefix.

    `modules` are LDM paths; those that belong to no SD VAE (a training loss, say) are left out.
    """
    listed = list(dict.fromkeys(modules))
    levels = 1 + max(
        (int(found[1]) for name in listed if (found := re.match(r"decoder\.up\.(\d+)\.", name))), default=0
    )
    paths = {name: _vae_path(name, levels) for name in listed}
    return {ldm: diffusers for ldm, diffusers in paths.items() if diffusers}


def _vae_path(name: str, levels: int) -> str | None:
    if name in VAE_ENDS:
        return VAE_ENDS[name]
    if found := re.match(r"(encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.(\w+)$", name):
        side, level, index, inside = found.groups()
        if inside not in VAE_RESNET:
            return None
        # LDM counts the decoder's levels from the finest one, diffusers in the order they run.
        block = (
            f"encoder.down_blocks.{level}" if side == "encoder.down" else f"decoder.up_blocks.{levels - 1 - int(level)}"
        )
        return f"{block}.resnets.{index}.{VAE_RESNET[inside]}"
    if found := re.match(r"encoder\.down\.(\d+)\.downsample\.conv$", name):
        return f"encoder.down_blocks.{found[1]}.downsamplers.0.conv"
    if found := re.match(r"decoder\.up\.(\d+)\.upsample\.conv$", name):
        return f"decoder.up_blocks.{levels - 1 - int(found[1])}.upsamplers.0.conv"
    if found := re.match(r"(encoder|decoder)\.mid\.block_([12])\.(\w+)$", name):
        inside = VAE_RESNET.get(found[3])
        return f"{found[1]}.mid_block.resnets.{int(found[2]) - 1}.{inside}" if inside else None
    if found := re.match(r"(encoder|decoder)\.mid\.attn_1\.(\w+)$", name):
        inside = VAE_ATTENTION.get(found[2])
        return f"{found[1]}.mid_block.attentions.0.{inside}" if inside else None
    return None


def vae_ldm_paths(modules: Iterable[str]) -> dict[str, str]:
    """LDM path of every VAE module, by its diffusers path."""
    listed = list(dict.fromkeys(modules))
    levels = 1 + max(int(found[1]) for name in listed if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    ends = {diffusers: ldm for ldm, diffusers in VAE_ENDS.items()}
    resnet = {diffusers: ldm for ldm, diffusers in VAE_RESNET.items()}
    attention = {diffusers: ldm for ldm, diffusers in VAE_ATTENTION.items()}
    paths: dict[str, str] = {}
    for name in listed:
        if name in ends:
            paths[name] = ends[name]
        elif found := re.match(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)$", name):
            paths[name] = f"encoder.down.{found[1]}.block.{found[2]}.{resnet[found[3]]}"
        elif found := re.match(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)$", name):
            paths[name] = f"decoder.up.{levels - 1 - int(found[1])}.block.{found[2]}.{resnet[found[3]]}"
        elif found := re.match(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv$", name):
            paths[name] = f"encoder.down.{found[1]}.downsample.conv"
        elif found := re.match(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv$", name):
            paths[name] = f"decoder.up.{levels - 1 - int(found[1])}.upsample.conv"
        elif found := re.match(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(\w+)$", name):
            paths[name] = f"{found[1]}.mid.block_{int(found[2]) + 1}.{resnet[found[3]]}"
        elif found := re.match(r"(encoder|decoder)\.mid_block\.attentions\.0\.([\w.]+)$", name):
            paths[name] = f"{found[1]}.mid.attn_1.{attention[found[2]]}"
    return paths


def unet_ldm_paths(modules: Iterable[str]) -> dict[str, str]:
    """LDM path of every UNet module without `model.diffusion_model.`, by its diffusers path.

    LDM numbers resnets and samplers of all levels through; diffusers groups them by level.
    """
    listed = list(dict.fromkeys(modules))
    places = {**_down_places(listed), **_up_places(listed)}
    places |= {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    ends = {diffusers: ldm for ldm, diffusers in UNET_ENDS.items()}
    resnet = {diffusers: ldm for ldm, diffusers in RESNET.items()}
    paths: dict[str, str] = {}
    for name in listed:
        found = re.match(
            r"((?:down_blocks|up_blocks)\.\d+|mid_block)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)$", name
        )
        if name in ends:
            paths[name] = ends[name]
        elif found and (place := places.get(f"{found[1]}.{found[2]}.{found[3]}")):
            inside = resnet[found[4]] if found[2] == "resnets" else found[4]
            paths[name] = f"{place}.op" if found[2] == "downsamplers" else f"{place}.{inside}"
    return paths


def _count(modules: Iterable[str], pattern: str) -> int:
    """One more than the highest number `pattern`'s group matches, 0 if nothing matches."""
    return 1 + max((int(found[1]) for name in modules if (found := re.match(pattern, name))), default=-1)


def _down_places(modules: list[str]) -> dict[str, str]:
    places, number = {}, 1
    for level in range(_count(modules, r"down_blocks\.(\d+)\.")):
        block = rf"down_blocks.{level}"
        for index in range(_count(modules, rf"{re.escape(block)}\.resnets\.(\d+)\.")):
            places[f"{block}.resnets.{index}"] = f"input_blocks.{number}.0"
            places[f"{block}.attentions.{index}"] = f"input_blocks.{number}.1"
            number += 1
        if any(name.startswith(f"{block}.downsamplers.") for name in modules):
            places[f"{block}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    return places


def _up_places(modules: list[str]) -> dict[str, str]:
    places, number = {}, 0
    for level in range(_count(modules, r"up_blocks\.(\d+)\.")):
        block = f"up_blocks.{level}"
        attentions = any(name.startswith(f"{block}.attentions.") for name in modules)
        for index in range(_count(modules, rf"{re.escape(block)}\.resnets\.(\d+)\.")):
            places[f"{block}.resnets.{index}"] = f"output_blocks.{number}.0"
            places[f"{block}.attentions.{index}"] = f"output_blocks.{number}.1"
            number += 1
        places[f"{block}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attentions else 1}"
    return places


def clip_ldm_name(parameter: str) -> str:
    """A CLIP-L parameter's name in a single file, below `cond_stage_model.` or `conditioner.embedders.0.`."""
    if parameter.startswith(("text_model.", "text_projection.")):
        return f"transformer.{parameter}"
    return f"transformer.text_model.{parameter}"  # transformers 5 leaves `text_model.` out


def open_clip_names(parameters: Iterable[str]) -> Mapping[str, list[str]]:
    """OpenCLIP's names, below the encoder's prefix, each with the parameters it holds: one, or the fused q, k, v."""
    ends = {transformers: ldm for ldm, transformers in OPEN_CLIP_ENDS.items()}
    ends["text_projection.weight"] = "text_projection"  # stored transposed
    inside = {transformers: ldm for ldm, transformers in OPEN_CLIP_LAYER.items()}
    names: dict[str, list[str]] = {}
    for parameter in parameters:
        full = parameter if parameter.startswith("text_") else f"text_model.{parameter}"
        if full in ends:
            names[f"model.{ends[full]}"] = [parameter]
        elif found := re.match(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)$", full):
            fused = f"model.transformer.resblocks.{found[1]}.attn.in_proj_{found[3]}"
            names.setdefault(fused, ["", "", ""])["qkv".index(found[2])] = parameter
        elif found := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", full):
            names[f"model.transformer.resblocks.{found[1]}.{inside[found[2]]}.{found[3]}"] = [parameter]
    return names
