"""Anima: its layers, what other programs call them, and its variants of more blocks.

Names without a prefix, "blocks.0.self_attn.q_proj" or as `keys.canonical` leaves them. Numbers of blocks and
which are repeated: Forge Neo 2.29.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from adapter_lab.errors import FileFormatError
from adapter_lab.families import DiffusionTransformer

# From a module's name in Anima's own files to diffusers' path; its conditioner is a model of its own there. A dot is a
# dot in these patterns.
DIFFUSERS: tuple[tuple[str, str], ...] = (
    (r"blocks.(\d+).self_attn.([qkv])_proj", r"transformer_blocks.\1.attn1.to_\2"),
    (r"blocks.(\d+).cross_attn.([qkv])_proj", r"transformer_blocks.\1.attn2.to_\2"),
    (r"blocks.(\d+).self_attn.output_proj", r"transformer_blocks.\1.attn1.to_out.0"),
    (r"blocks.(\d+).cross_attn.output_proj", r"transformer_blocks.\1.attn2.to_out.0"),
    (r"blocks.(\d+).self_attn.([qk])_norm", r"transformer_blocks.\1.attn1.norm_\2"),
    (r"blocks.(\d+).cross_attn.([qk])_norm", r"transformer_blocks.\1.attn2.norm_\2"),
    (r"blocks.(\d+).mlp.layer1", r"transformer_blocks.\1.ff.net.0.proj"),
    (r"blocks.(\d+).mlp.layer2", r"transformer_blocks.\1.ff.net.2"),
    (r"blocks.(\d+).adaln_modulation_self_attn.([12])", r"transformer_blocks.\1.norm1.linear_\2"),
    (r"blocks.(\d+).adaln_modulation_cross_attn.([12])", r"transformer_blocks.\1.norm2.linear_\2"),
    (r"blocks.(\d+).adaln_modulation_mlp.([12])", r"transformer_blocks.\1.norm3.linear_\2"),
    (r"x_embedder.proj.1", "patch_embed.proj"),
    (r"t_embedder.1.linear_([12])", r"time_embed.t_embedder.linear_\1"),
    (r"final_layer.linear", "proj_out"),
    (r"final_layer.adaln_modulation.([12])", r"norm_out.linear_\1"),
    (r"llm_adapter.(\S+)", r"text_conditioner.\1"),
)
_PATHS = tuple((re.compile(own.replace(".", r"\.")), diffusers) for own, diffusers in DIFFUSERS)
# The same as `keys.canonical` leaves names.
_NAMES = tuple((re.compile(own.replace(".", "_")), diffusers.replace(".", "_")) for own, diffusers in DIFFUSERS)
# How the names of a transformer file's tensors may begin, and a tensor that each has.
STARTS = ("", "net.", "model.diffusion_model.", "diffusion_model.")
MARK = "blocks.0.cross_attn.k_proj.weight"
# A name of a transformer's block, in any spelling; the conditioner has blocks of its own.
BLOCK = re.compile(r"((?!.*(?:llm_adapter|text_conditioner)).*?(?:\b|_)blocks[._])(\d+)([._].*)")
# Blocks of one variant that a larger one has twice (or three times), after one another.
SMALL, MIDDLE, LARGE = 28, 40, 52
_IN_SMALL = (1, 3, 5, 7, 9, 11, 14, 16, 18, 20, 22, 24)
_IN_MIDDLE = tuple(range(2, 36, 3))
TIMES: Mapping[tuple[int, int], tuple[tuple[int, ...], int]] = {
    (SMALL, MIDDLE): (_IN_SMALL, 2),
    (SMALL, LARGE): (_IN_SMALL, 3),
    (MIDDLE, LARGE): (_IN_MIDDLE, 2),
}


def prefix_of(names: Container[str]) -> str | None:
    """How the names of tensors begin in a file of Anima's transformer; None: it is no such file."""
    return next((start for start in STARTS if f"{start}{MARK}" in names), None)


def own_module(key: str) -> str:
    """A module's name in Anima's own files, of the key of its weight in any of them."""
    start = next(start for start in sorted(STARTS, key=len, reverse=True) if key.startswith(start))
    return key.removeprefix(start).removesuffix(".weight")


def role_of(module: str) -> str:
    """The role (`Target.role`) of a module of transformer, conditioner or text encoder, by its name in the files."""
    if re.search(r"(blocks|layers)\.\d+\.(self|cross)_attn\.", module):
        return "attention"
    if re.search(r"(blocks|layers)\.\d+\.mlp\.", module):
        return "feed_forward"
    return "modulation" if re.match(r"blocks\.\d+\.adaln_modulation_", module) else "other"


def diffusers_module(module: str) -> str:
    """diffusers' path of a module of the transformer, by its name in Anima's own files; "": there is no such module."""
    return next((own.sub(diffusers, module) for own, diffusers in _PATHS if own.fullmatch(module)), "")


def other_names(name: str) -> Iterator[str]:
    """What other programs call a module that Anima's own files call `name`, each without a prefix."""
    for own, diffusers in _NAMES:
        if own.fullmatch(name):
            yield own.sub(diffusers, name)


# How other programs begin the names of the text encoder's layers, of which this is how Forge Neo's do.
TEXT_START = "lora_te1_layers_"
OTHER_TEXT_STARTS = tuple(
    f"{start}layers_"
    for start in (
        "text_encoders_qwen3_06b_model_",
        "text_encoders_qwen3_06b_transformer_model_",
        "lora_te1_model_",
        "lora_te1_transformer_model_",
    )
)


def places(file_blocks: int, base_blocks: int) -> list[list[int]]:
    """For each block of a variant, the blocks of a larger one that it became. KeyError: there is no such pair."""
    repeated, times = TIMES[file_blocks, base_blocks]
    found: list[list[int]] = []
    for block in range(file_blocks):
        start = found[-1][-1] + 1 if found else 0
        found.append(list(range(start, start + (times if block in repeated else 1))))
    return found


def blocks_of(names: Iterable[str]) -> set[int]:
    """The numbers of the transformer's blocks among names of modules, in any spelling."""
    return {int(found[2]) for name in names if (found := BLOCK.fullmatch(name))}


def spread(names: Iterable[str], base_blocks: int, path: str, base_name: str) -> tuple[dict[str, list[str]], str]:
    """Modules of an adapter for a smaller variant, by the names they have in the base, and what is to be said of it.

    Empty if the file's blocks are the base's. Raises FileFormatError for a file with more blocks than the base.
    """
    names = list(names)
    blocks = blocks_of(names)
    if not blocks or base_blocks not in (SMALL, MIDDLE, LARGE):
        return {}, ""
    if max(blocks) >= base_blocks:
        raise FileFormatError(
            f"{path} changes block {max(blocks)}, but {base_name} has {base_blocks} blocks; "
            "choose an adapter for a model of this size."
        )
    smaller = next((size for size, larger in TIMES if larger == base_blocks and blocks == set(range(size))), None)
    if smaller is None:
        whole = base_blocks == SMALL or blocks == set(range(base_blocks))
        return {}, "" if whole else f"{len(blocks)} of {base_blocks} blocks, as the file numbers them"
    to = places(smaller, base_blocks)
    found = {
        name: [f"{parts[1]}{block}{parts[3]}" for block in to[int(parts[2])]]
        for name in names
        if (parts := BLOCK.fullmatch(name))
    }
    return found, f"{smaller} blocks spread over the base's {base_blocks}"


def standard_shapes(row: DiffusionTransformer, blocks: int = 0) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of the files of a transformer and text encoder (`families.anima`), bare names.

    `blocks`: of the transformer; 0: the usual.
    """
    t, (text, conditioner) = row.transformer, (part.config for part in row.text)
    width = t["num_attention_heads"] * t["attention_head_dim"]
    patch = math.prod(t["patch_size"])
    shapes = {
        "x_embedder.proj.1.weight": (width, (t["in_channels"] + t["concat_padding_mask"]) * patch),
        "t_embedder.1.linear_1.weight": (width, width),
        "t_embedder.1.linear_2.weight": (3 * width, width),
        "t_embedding_norm.weight": (width,),
        "final_layer.linear.weight": (t["out_channels"] * patch, width),
        "final_layer.adaln_modulation.1.weight": (t["adaln_lora_dim"], width),
        "final_layer.adaln_modulation.2.weight": (2 * width, t["adaln_lora_dim"]),
    }
    for number in range(blocks or t["num_layers"]):
        block = _block(width, t["text_embed_dim"], int(width * t["mlp_ratio"]), t["adaln_lora_dim"])
        block |= {f"{a}_attn.{n}_norm.weight": (t["attention_head_dim"],) for a in ("self", "cross") for n in "qk"}
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    shapes |= {f"llm_adapter.{name}": shape for name, shape in _conditioner(conditioner).items()}
    return shapes | {f"model.{name}": shape for name, shape in _qwen3(text).items()}


def _block(width: int, context: int, hidden: int, modulation: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for attention, read in (("self_attn", width), ("cross_attn", context)):
        shapes |= {f"{attention}.{name}_proj.weight": (width, width) for name in ("q", "output")}
        shapes |= {f"{attention}.{name}_proj.weight": (width, read) for name in "kv"}
    for name in ("self_attn", "cross_attn", "mlp"):
        shapes[f"adaln_modulation_{name}.1.weight"] = (modulation, width)
        shapes[f"adaln_modulation_{name}.2.weight"] = (3 * width, modulation)
    return shapes | {"mlp.layer1.weight": (hidden, width), "mlp.layer2.weight": (width, hidden)}


def _conditioner(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, source, out = config["model_dim"], config["source_dim"], config["target_dim"]
    hidden, head = int(width * config["mlp_ratio"]), width // config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config["target_vocab_size"], out)}
    if width != out:
        shapes |= {"in_proj.weight": (width, out), "in_proj.bias": (width,)}
    for number in range(config["num_layers"]):
        block: dict[str, tuple[int, ...]] = {}
        for attention, read in (("self_attn", width), ("cross_attn", source)):
            block |= {f"{attention}.{name}_proj.weight": (width, width) for name in "qo"}
            block |= {f"{attention}.{name}_proj.weight": (width, read) for name in "kv"}
            block |= {f"{attention}.{name}_norm.weight": (head,) for name in "qk"}
        block |= {f"norm_{name}.weight": (width,) for name in ("self_attn", "cross_attn", "mlp")}
        block |= {"mlp.0.weight": (hidden, width), "mlp.0.bias": (hidden,)}
        block |= {"mlp.2.weight": (width, hidden), "mlp.2.bias": (width,)}
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes | {"out_proj.weight": (out, width), "out_proj.bias": (out,), "norm.weight": (out,)}


def _qwen3(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config["vocab_size"], width)}
    for number in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj.weight": (query, width),
            "self_attn.k_proj.weight": (key, width),
            "self_attn.v_proj.weight": (key, width),
            "self_attn.o_proj.weight": (width, query),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes | {"norm.weight": (width,)}
