"""Names and shapes of the layers of the released SD1.5, SD2 and SDXL: what a file can be sorted by without its base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from adapter_lab.adapters.keys import TargetTable, targets
from adapter_lab.adapters.layouts import TEXT_ENCODERS, UNET

TIME_WIDTH = 1280


@dataclass(frozen=True)
class Outline:
    """A UNet's widths and number of transformer blocks by level, and its text encoders."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    context: int
    linear_projections: bool
    encoders: dict[str, TextOutline]  # by key of TEXT_ENCODERS
    added: int = 0  # width of SDXL's size conditions and pooled text; 0 for none


@dataclass(frozen=True)
class TextOutline:
    """A CLIP text encoder as transformers names it, or as OpenCLIP does (fused q, k, v)."""

    width: int
    layers: int
    open_clip: bool


CLIP_L, CLIP_H, CLIP_G = TextOutline(768, 12, False), TextOutline(1024, 24, True), TextOutline(1280, 32, True)
OUTLINES = {
    "sd15": Outline((320, 640, 1280, 1280), (1, 1, 1, 0), 768, False, {"te": CLIP_L}),
    "sd2": Outline((320, 640, 1280, 1280), (1, 1, 1, 0), 1024, True, {"te": CLIP_H}),
    "sdxl": Outline((320, 640, 1280), (0, 2, 10), 2048, True, {"te1": CLIP_L, "te2": CLIP_G}, added=2816),
}

Shapes = dict[str, "tuple[int, ...]"]


@cache
def standard_targets(family: str) -> TargetTable:
    """Every target of a released "sd15", "sd2" or "sdxl" checkpoint."""
    return targets(standard_shapes(family))


def standard_shapes(family: str) -> Shapes:
    """Tensor names and shapes of the UNet and text encoders of a family's single file, as far as adapters change it."""
    outline = OUTLINES[family]
    shapes = {f"{UNET}{name}": shape for name, shape in _unet(outline).items()}
    for part, encoder in outline.encoders.items():
        make = _open_clip if encoder.open_clip else _clip
        shapes |= {f"{TEXT_ENCODERS[part]}{name}": shape for name, shape in make(encoder).items()}
    return shapes


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A layer's weight and bias; one axis for a norm."""
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def _merged(parts: Iterable[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def _unet(outline: Outline) -> Shapes:
    first = outline.widths[0]
    shapes = _layer("time_embed.0", TIME_WIDTH, first) | _layer("time_embed.2", TIME_WIDTH, TIME_WIDTH)
    if outline.added:
        shapes |= _layer("label_emb.0.0", TIME_WIDTH, outline.added) | _layer("label_emb.0.2", TIME_WIDTH, TIME_WIDTH)
    shapes |= _layer("input_blocks.0.0", first, 4, 3, 3)
    number, width, skips = 1, first, [first]
    for level, (out, depth) in enumerate(zip(outline.widths, outline.depths)):
        for _ in range(2):
            shapes |= _block(f"input_blocks.{number}", outline, width, out, depth)
            number, width = number + 1, out
            skips.append(out)
        if level < len(outline.widths) - 1:
            shapes |= _layer(f"input_blocks.{number}.0.op", out, out, 3, 3)
            number += 1
            skips.append(out)
    deepest = outline.depths[-1] or outline.depths[-2]
    shapes |= _resnet("middle_block.0", width, width) | _transformer("middle_block.1", outline, width, deepest)
    shapes |= _resnet("middle_block.2", width, width)
    number = 0
    for level, (out, depth) in reversed(list(enumerate(zip(outline.widths, outline.depths)))):
        for last in (False, False, True):
            block = f"output_blocks.{number}"
            shapes |= _block(block, outline, width + skips.pop(), out, depth)
            if last and level:
                shapes |= _layer(f"{block}.{2 if depth else 1}.conv", out, out, 3, 3)
            number, width = number + 1, out
    return shapes | _layer("out.0", first) | _layer("out.2", 4, first, 3, 3)


def _block(name: str, outline: Outline, width: int, out: int, depth: int) -> Shapes:
    return _resnet(f"{name}.0", width, out) | _transformer(f"{name}.1", outline, out, depth)


def _resnet(name: str, width: int, out: int) -> Shapes:
    shapes = _layer(f"{name}.in_layers.0", width) | _layer(f"{name}.in_layers.2", out, width, 3, 3)
    shapes |= _layer(f"{name}.emb_layers.1", out, TIME_WIDTH)
    shapes |= _layer(f"{name}.out_layers.0", out) | _layer(f"{name}.out_layers.3", out, out, 3, 3)
    return shapes | (_layer(f"{name}.skip_connection", out, width, 1, 1) if width != out else {})


def _transformer(name: str, outline: Outline, width: int, depth: int) -> Shapes:
    if not depth:
        return {}
    ends = (width, width) if outline.linear_projections else (width, width, 1, 1)
    shapes = _layer(f"{name}.norm", width) | _layer(f"{name}.proj_in", *ends) | _layer(f"{name}.proj_out", *ends)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, read in (("attn1", width), ("attn2", outline.context)):
            shapes |= _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_k", width, read, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_v", width, read, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _layer(f"{block}.ff.net.0.proj", 8 * width, width) | _layer(f"{block}.ff.net.2", width, 4 * width)
        shapes |= _merged(_layer(f"{block}.norm{norm}", width) for norm in (1, 2, 3))
    return shapes


def _clip(encoder: TextOutline) -> Shapes:
    width, top = encoder.width, "transformer.text_model"
    shapes: Shapes = {}
    for number in range(encoder.layers):
        layer = f"{top}.encoder.layers.{number}"
        shapes |= _merged(_layer(f"{layer}.self_attn.{end}", width, width) for end in _ATTENTION)
        shapes |= _layer(f"{layer}.mlp.fc1", 4 * width, width) | _layer(f"{layer}.mlp.fc2", width, 4 * width)
        shapes |= _layer(f"{layer}.layer_norm1", width) | _layer(f"{layer}.layer_norm2", width)
    return shapes | _layer(f"{top}.final_layer_norm", width)


_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def _open_clip(encoder: TextOutline) -> Shapes:
    width = encoder.width
    shapes: Shapes = {"model.text_projection": (width, width)}
    for number in range(encoder.layers):
        layer = f"model.transformer.resblocks.{number}"
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        shapes |= _layer(f"{layer}.attn.out_proj", width, width)
        shapes |= _layer(f"{layer}.mlp.c_fc", 4 * width, width) | _layer(f"{layer}.mlp.c_proj", width, 4 * width)
        shapes |= _layer(f"{layer}.ln_1", width) | _layer(f"{layer}.ln_2", width)
    return shapes | _layer("model.ln_final", width)
