"""Segmind Vega: SDXL with the fewest transformers, none of them in the middle."""

from __future__ import annotations

from dataclasses import replace

from adapter_lab.families.row import tier
from adapter_lab.families.sdxl import SDXL

VEGA = replace(
    SDXL,
    key="vega",
    title="Segmind Vega",
    of=SDXL.key,
    tiers={
        6: tier(1, text=True),
        8: tier(2, text=True),
        12: tier(6, text=True),
        16: tier(8, text=True),
        24: tier(12, text=True),
    },
    unet={**SDXL.unet, "transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"},
)
