"""IA3: one factor per channel. Liu et al. 2022."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_lab.algorithms.row import LIKE_COMFY, NO_DIM, AdapterType, Algorithm
from adapter_lab.option import option


@dataclass(kw_only=True)
class IA3Options:
    """Settings of IA3 alone."""

    train_on_input: bool = option(
        False, "IA3: scale the input channels instead of the outputs.", lycoris="train_on_input"
    )


IA3 = Algorithm(
    key="ia3",
    title="IA3",
    weight="(1 + g) * W",
    reader="adapters.ia3:IA3",
    layer="training.forwards.ia3:IA3Layer",
    dim=NO_DIM,
    shared=("train_conv",),
    own=IA3Options,
    types=(
        AdapterType("ia3", "IA3", "One factor per channel: tiny files, for light changes of style.", {"algo": "ia3"}),
    ),
    spellings=("(ia)3", "(ia)³", "ia³"),
    lycoris=("ia3",),
    sd_scripts=(),
    read_by=((("a1111",), "weight on_input"),),
    wrong={},
    dropped=dict.fromkeys(LIKE_COMFY, "it has no effect"),
)
