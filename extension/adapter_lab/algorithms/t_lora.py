"""T-LoRA: a LoRA whose rank shrinks as the noise grows, so that few images are learned without their layout.

Soboleva et al. 2025 (arXiv 2507.05964).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapter_lab.algorithms.row import RANK, AdapterType, Algorithm
from adapter_lab.option import option


@dataclass(kw_only=True)
class TLoRAOptions:
    """Settings of T-LoRA alone."""

    min_rank: int | Literal["half"] = option(
        "half", "T-LoRA: ranks that are trained at the noisiest timestep; half: half of the dim.", minimum=0
    )
    rank_power: float = option(
        1.0, "T-LoRA: how fast ranks go as noise grows; above 1: faster at once.", minimum=0.01, maximum=10
    )


T_LORA = Algorithm(
    key="t-lora",
    title="T-LoRA",
    weight="W + s B A, of which the last ranks rest where there is much noise",
    reader="",
    layer="training.forwards.t_lora:TLoRALayer",
    dim=RANK,
    shared=(
        "dim",
        "alpha",
        "conv_dim",
        "conv_alpha",
        "use_scalar",
        "rs_lora",
        "dropout",
        "tucker",
        "lora_plus_ratio",
        "init",
    ),
    own=TLoRAOptions,
    types=(
        AdapterType(
            "t-lora",
            "T-LoRA",
            "A LoRA that learns with fewer ranks from noisy images, where layout is decided, and with all from clear "
            "ones: for very few images. Every program reads its files as LoRA.",
            {"algo": "t-lora", "dim": 32, "alpha": 32.0},
        ),
    ),
    spellings=("tlora",),
    lycoris=("tlora",),
    sd_scripts=(),
    read_by=(),
    wrong={},
    dropped={},
    saved_as="lora",
)
