"""KOALA in its two sizes: SDXL with one block less on each level."""

from __future__ import annotations

from dataclasses import replace

from adapter_lab.families.sdxl import SDXL
from adapter_lab.families.ssd1b import SSD1B
from adapter_lab.families.vega import VEGA

KOALA_1B = replace(
    SDXL,
    key="koala-1b",
    title="KOALA-1B",
    of=SDXL.key,
    tiers=SSD1B.tiers,  # as much memory
    unet={**SDXL.unet, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]},
)
KOALA_700M = replace(
    KOALA_1B,
    key="koala-700m",
    title="KOALA-700M",
    tiers=VEGA.tiers,
    unet={**KOALA_1B.unet, "transformer_layers_per_block": [1, 2, 5], "mid_block_type": None},
)
