"""Anima's transformer: what other programs call its modules, and its variants of more blocks.

Names are compared as `keys.canonical` leaves them, without a prefix: "blocks_0_self_attn_q_proj". Numbers of blocks and
which are repeated: Forge Neo 2.29.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from adapter_lab.errors import FileFormatError

# From this name of a module in Anima's own files to diffusers'; its conditioner is a model of its own there.
DIFFUSERS: tuple[tuple[str, str], ...] = (
    (r"blocks_(\d+)_self_attn_([qkv])_proj", r"transformer_blocks_\1_attn1_to_\2"),
    (r"blocks_(\d+)_cross_attn_([qkv])_proj", r"transformer_blocks_\1_attn2_to_\2"),
    (r"blocks_(\d+)_self_attn_output_proj", r"transformer_blocks_\1_attn1_to_out_0"),
    (r"blocks_(\d+)_cross_attn_output_proj", r"transformer_blocks_\1_attn2_to_out_0"),
    (r"blocks_(\d+)_self_attn_([qk])_norm", r"transformer_blocks_\1_attn1_norm_\2"),
    (r"blocks_(\d+)_cross_attn_([qk])_norm", r"transformer_blocks_\1_attn2_norm_\2"),
    (r"blocks_(\d+)_mlp_layer1", r"transformer_blocks_\1_ff_net_0_proj"),
    (r"blocks_(\d+)_mlp_layer2", r"transformer_blocks_\1_ff_net_2"),
    (r"blocks_(\d+)_adaln_modulation_self_attn_([12])", r"transformer_blocks_\1_norm1_linear_\2"),
    (r"blocks_(\d+)_adaln_modulation_cross_attn_([12])", r"transformer_blocks_\1_norm2_linear_\2"),
    (r"blocks_(\d+)_adaln_modulation_mlp_([12])", r"transformer_blocks_\1_norm3_linear_\2"),
    (r"x_embedder_proj_1", "patch_embed_proj"),
    (r"t_embedder_1_linear_([12])", r"time_embed_t_embedder_linear_\1"),
    (r"final_layer_linear", "proj_out"),
    (r"final_layer_adaln_modulation_([12])", r"norm_out_linear_\1"),
    (r"llm_adapter_(.+)", r"text_conditioner_\1"),
)
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


def other_names(name: str) -> Iterator[str]:
    """What other programs call a module that Anima's own files call `name`, each without a prefix."""
    for own, diffusers in DIFFUSERS:
        if re.fullmatch(own, name):
            yield re.sub(own, diffusers, name)


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
