"""SSD-1B: SDXL with fewer transformers, none of them in the middle."""

from __future__ import annotations

from dataclasses import replace

from adapter_lab.families.row import tier
from adapter_lab.families.sdxl import SDXL

SSD1B = replace(
    SDXL,
    key="ssd-1b",
    title="SSD-1B",
    of=SDXL.key,
    tiers={
        6: tier(1, text=True, fp8=True),
        8: tier(1, text=True),
        12: tier(4, text=True),
        16: tier(6, text=True),
        24: tier(8, text=True),
    },
    unet={
        **SDXL.unet,
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
)
