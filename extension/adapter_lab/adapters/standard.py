"""Names and shapes of the layers of every family's released model: what a file is sorted by without its base."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from adapter_lab.adapters import anima
from adapter_lab.adapters.keys import TargetTable, targets
from adapter_lab.adapters.layouts import UNET
from adapter_lab.families import TRANSFORMERS, UNETS, StableDiffusion

TIME_WIDTH = 1280


Shapes = dict[str, "tuple[int, ...]"]


@cache
def standard_targets(family: str) -> TargetTable:
    """Every target of a family's released model."""
    if family in TRANSFORMERS:  # of its largest variant, which the others are parts of
        return targets(anima.standard_shapes(TRANSFORMERS[family], anima.LARGE))
    return targets(standard_shapes(family))


def standard_shapes(family: str) -> Shapes:
    """Tensor names and shapes of denoiser and text encoders of a family's released model that adapters may change."""
    if family in TRANSFORMERS:
        return anima.standard_shapes(TRANSFORMERS[family])
    row = UNETS[family]
    shapes = {f"{UNET}{name}": shape for name, shape in _unet(row).items()}
    for part in row.text:
        make = _open_clip if part.open_clip else _clip
        width, layers = part.config["hidden_size"], part.config["num_hidden_layers"] + part.unused_layers
        shapes |= {f"{part.checkpoint}{name}": shape for name, shape in make(width, layers).items()}
    return shapes


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A layer's weight and bias; one axis for a norm."""
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def _merged(parts: Iterable[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def _unet(row: StableDiffusion) -> Shapes:
    widths: list[int] = row.unet["block_out_channels"]
    plain = row.unet["transformer_layers_per_block"]
    depths = [depth if "CrossAttn" in kind else 0 for depth, kind in zip(plain, row.unet["down_block_types"])]
    first, added = widths[0], row.unet.get("projection_class_embeddings_input_dim")
    shapes = _layer("time_embed.0", TIME_WIDTH, first) | _layer("time_embed.2", TIME_WIDTH, TIME_WIDTH)
    if added:
        shapes |= _layer("label_emb.0.0", TIME_WIDTH, added) | _layer("label_emb.0.2", TIME_WIDTH, TIME_WIDTH)
    shapes |= _layer("input_blocks.0.0", first, 4, 3, 3)
    number, width, skips = 1, first, [first]
    for level, (out, depth) in enumerate(zip(widths, depths)):
        for _ in range(2):
            shapes |= _block(f"input_blocks.{number}", row, width, out, depth)
            number, width = number + 1, out
            skips.append(out)
        if level < len(widths) - 1:
            shapes |= _layer(f"input_blocks.{number}.0.op", out, out, 3, 3)
            number += 1
            skips.append(out)
    deepest = depths[-1] or depths[-2]
    shapes |= _resnet("middle_block.0", width, width) | _transformer("middle_block.1", row, width, deepest)
    shapes |= _resnet("middle_block.2", width, width)
    number = 0
    for level, (out, depth) in reversed(list(enumerate(zip(widths, depths)))):
        for last in (False, False, True):
            block = f"output_blocks.{number}"
            shapes |= _block(block, row, width + skips.pop(), out, depth)
            if last and level:
                shapes |= _layer(f"{block}.{2 if depth else 1}.conv", out, out, 3, 3)
            number, width = number + 1, out
    return shapes | _layer("out.0", first) | _layer("out.2", 4, first, 3, 3)


def _block(name: str, row: StableDiffusion, width: int, out: int, depth: int) -> Shapes:
    return _resnet(f"{name}.0", width, out) | _transformer(f"{name}.1", row, out, depth)


def _resnet(name: str, width: int, out: int) -> Shapes:
    shapes = _layer(f"{name}.in_layers.0", width) | _layer(f"{name}.in_layers.2", out, width, 3, 3)
    shapes |= _layer(f"{name}.emb_layers.1", out, TIME_WIDTH)
    shapes |= _layer(f"{name}.out_layers.0", out) | _layer(f"{name}.out_layers.3", out, out, 3, 3)
    return shapes | (_layer(f"{name}.skip_connection", out, width, 1, 1) if width != out else {})


def _transformer(name: str, row: StableDiffusion, width: int, depth: int) -> Shapes:
    if not depth:
        return {}
    ends = (width, width) if row.unet["use_linear_projection"] else (width, width, 1, 1)
    shapes = _layer(f"{name}.norm", width) | _layer(f"{name}.proj_in", *ends) | _layer(f"{name}.proj_out", *ends)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, read in (("attn1", width), ("attn2", row.unet["cross_attention_dim"])):
            shapes |= _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_k", width, read, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_v", width, read, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _layer(f"{block}.ff.net.0.proj", 8 * width, width) | _layer(f"{block}.ff.net.2", width, 4 * width)
        shapes |= _merged(_layer(f"{block}.norm{norm}", width) for norm in (1, 2, 3))
    return shapes


def _clip(width: int, layers: int) -> Shapes:
    top = "transformer.text_model"
    shapes: Shapes = {}
    for number in range(layers):
        layer = f"{top}.encoder.layers.{number}"
        shapes |= _merged(_layer(f"{layer}.self_attn.{end}", width, width) for end in _ATTENTION)
        shapes |= _layer(f"{layer}.mlp.fc1", 4 * width, width) | _layer(f"{layer}.mlp.fc2", width, 4 * width)
        shapes |= _layer(f"{layer}.layer_norm1", width) | _layer(f"{layer}.layer_norm2", width)
    return shapes | _layer(f"{top}.final_layer_norm", width)


_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def _open_clip(width: int, layers: int) -> Shapes:
    shapes: Shapes = {"model.text_projection": (width, width)}
    for number in range(layers):
        layer = f"model.transformer.resblocks.{number}"
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        shapes |= _layer(f"{layer}.attn.out_proj", width, width)
        shapes |= _layer(f"{layer}.mlp.c_fc", 4 * width, width) | _layer(f"{layer}.mlp.c_proj", width, 4 * width)
        shapes |= _layer(f"{layer}.ln_1", width) | _layer(f"{layer}.ln_2", width)
    return shapes | _layer("model.ln_final", width)
