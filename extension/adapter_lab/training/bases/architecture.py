"""A checkpoint's configurations: sizes from its tensor shapes, the rest from its family and its own word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapter_lab.adapters.layouts import UNET, Shapes, text_encoder_parameters, unet_module_paths
from adapter_lab.errors import FileFormatError
from adapter_lab.families import TITLES, UNETS
from adapter_lab.families.row import block_types
from adapter_lab.training.bases.names import VAE, vae_module_paths

# What shapes cannot tell, and a file's own configuration may. Everything else follows from the tensors.
STATED = frozenset(
    {
        # UNet
        "sample_size",
        "attention_head_dim",
        "norm_num_groups",
        "norm_eps",
        "act_fn",
        "center_input_sample",
        "flip_sin_to_cos",
        "freq_shift",
        "upcast_attention",
        "resnet_time_scale_shift",
        "addition_time_embed_dim",
        # VAE
        "scaling_factor",
        "shift_factor",
        "latents_mean",
        "latents_std",
        "force_upcast",
        # text encoders
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
    }
)
HEAD_WIDTH = 64  # channels per attention head of CLIP, OpenCLIP, SD2 and SDXL


@contextmanager
def complete(path: Path, part: str) -> Iterator[None]:
    """Raise FileFormatError where a configuration derived inside needs a tensor that the part does not have."""
    try:
        yield
    except (KeyError, IndexError) as error:
        raise FileFormatError(
            f"{path} has an incomplete or altered {TITLES[part]} ({error}); use a complete checkpoint."
        ) from error


def unet_config(shapes: Shapes, family: str) -> dict[str, Any]:
    """The diffusers configuration of the UNet in a single-file checkpoint; `shapes` by LDM name."""
    paths = {diffusers: ldm for ldm, diffusers in unet_module_paths(shapes).items()}

    def shape(module: str) -> tuple[int, ...]:
        return shapes[f"{UNET}{paths[module]}.weight"]

    levels = _count(paths, r"down_blocks\.(\d+)\.")
    widths = [shape(f"down_blocks.{level}.resnets.0.conv1")[0] for level in range(levels)]
    projections = [shape(name) for name in paths if name.endswith("attentions.0.proj_in")]
    contexts = [shape(name)[1] for name in paths if name.endswith("attn2.to_k")]
    heads = UNETS[family].heads
    config: dict[str, Any] = {
        "sample_size": UNETS[family].resolution // UNETS[family].latent.scale,
        "in_channels": shape("conv_in")[1],
        "out_channels": shape("conv_out")[0],
        "block_out_channels": widths,
        "layers_per_block": _count(paths, r"down_blocks\.0\.resnets\.(\d+)\."),
        **_transformers(paths, levels),
        "cross_attention_dim": contexts[0],
        "attention_head_dim": heads or [max(1, width // HEAD_WIDTH) for width in widths],
        "use_linear_projection": len(projections[0]) == 2,
    }
    if "add_embedding.linear_1" in paths:
        inputs = shape("add_embedding.linear_1")[1]
        pooled = _pooled_width(shapes)
        config |= {
            "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": inputs,
            "addition_time_embed_dim": (inputs - pooled) // 6 if pooled else 256,
        }
    time_width = shape("time_embedding.linear_1")[0]
    if time_width != 4 * widths[0]:
        config["time_embedding_dim"] = time_width
    return config


def _transformers(paths: Iterable[str], levels: int) -> dict[str, Any]:
    """diffusers' options on where a UNet of `levels` levels has transformers and how deep each of them is.

    The released models are the same on the way up as on the way down, and their middle block is as deep as the last
    level, which itself may have no transformers (SD1.5, SD2). Distilled ones (SSD-1B, Vega, KOALA) differ in each.
    """

    def depths(block: str) -> list[int]:
        count = _count(paths, rf"{block}\.attentions\.(\d+)\.")
        return [_count(paths, rf"{block}\.attentions\.{i}\.transformer_blocks\.(\d+)\.") for i in range(count)] or [0]

    down = [depths(rf"down_blocks\.{level}") for level in range(levels)]
    up = [depths(rf"up_blocks\.{level}") for level in range(levels)]
    [middle, *_] = depths("mid_block")
    plain = [entry[0] or 1 for entry in down[:-1]] + [down[-1][0] or middle]
    kinds = block_types([entry[0] > 0 for entry in down])
    kinds["up_block_types"] = block_types([entry[0] > 0 for entry in reversed(up)])["up_block_types"]
    config: dict[str, Any] = {"transformer_layers_per_block": plain, **kinds}
    same = all({*one} == {one[0]} == {*other} for one, other in zip(down, reversed(up)))
    if not same:
        config["transformer_layers_per_block"] = [_depth(entry) for entry in down]
        config["reverse_transformer_layers_per_block"] = [_depth(entry) for entry in up]
    if not middle:
        resnets = _count(paths, r"mid_block\.resnets\.(\d+)\.")
        config["mid_block_type"] = "UNetMidBlock2D" if resnets else None
    return config


def _depth(of_each: list[int]) -> int | list[int]:
    """Depths of a level's transformers as diffusers is given them; a level without any takes no part in it."""
    return of_each if any(of_each) else 1


def _pooled_width(shapes: Shapes) -> int:
    for encoder, parameters in text_encoder_parameters(shapes).items():
        if encoder == "te2" and (source := parameters.get("text_projection.weight")):
            return shapes[source.key][1 if source.transposed else 0]
    return 0


def vae_config(shapes: Shapes, family: str) -> dict[str, Any]:
    """The diffusers configuration of the VAE in a single-file checkpoint; `shapes` by LDM name."""
    modules = dict.fromkeys(key[len(VAE) :].rsplit(".", 1)[0] for key in shapes if key.startswith(VAE))
    paths = {diffusers: ldm for ldm, diffusers in vae_module_paths(modules).items()}

    def shape(module: str) -> tuple[int, ...]:
        return shapes[f"{VAE}{paths[module]}.weight"]

    levels = _count(paths, r"encoder\.down_blocks\.(\d+)\.")
    return {
        "in_channels": shape("encoder.conv_in")[1],
        "out_channels": shape("decoder.conv_out")[0],
        "block_out_channels": [shape(f"encoder.down_blocks.{level}.resnets.0.conv1")[0] for level in range(levels)],
        "layers_per_block": _count(paths, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shape("decoder.conv_in")[1],
        "scaling_factor": UNETS[family].latent.factor,
        "force_upcast": True,  # read for SDXL only, whose VAE overflows in fp16 unless this says it was mended
        "use_quant_conv": "quant_conv" in paths,
        "use_post_quant_conv": "post_quant_conv" in paths,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q" in paths,
    }


def text_config(parameters: Mapping[str, tuple[int, ...]], family: str, part: str) -> dict[str, Any]:
    """The transformers configuration of a CLIP text encoder; `parameters` maps transformers names to shapes.

    Last layers that the family never runs (SD2) are left out.
    """
    tokens, width = parameters["text_model.embeddings.token_embedding.weight"]
    layers = _count(parameters, r"text_model\.encoder\.layers\.(\d+)\.")
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": parameters["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers - UNETS[family].text_part(part).unused_layers,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "max_position_embeddings": parameters["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": UNETS[family].text_part(part).activation,
        "projection_dim": parameters.get("text_projection.weight", (width,))[0],
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number `pattern`'s group matches, 0 if nothing matches."""
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)


def overridden(config: dict[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what a file states about itself, of the keys that matter to us; None states nothing."""
    return {**config, **{key: value for key, value in stated.items() if key in STATED and value is not None}}
