"""BOFT: rotations of the outputs in butterfly stages. Liu et al. 2024, as LyCORIS has it."""

from __future__ import annotations

from adapter_lab.algorithms.diag_oft import RotationOptions
from adapter_lab.algorithms.row import BLOCK, OF_BLOCK, AdapterType, Algorithm

BOFT = Algorithm(
    key="boft",
    title="BOFT",
    weight="R_m ... R_1 W",
    reader="adapters.boft:BOFT",
    layer="training.forwards.boft:BOFTLayer",
    dim=BLOCK,
    shared=OF_BLOCK,
    own=RotationOptions,
    types=(
        AdapterType(
            "boft",
            "BOFT",
            "Several rotations in a butterfly: finer than diag-OFT and the slowest type; skips layers whose size its "
            "blocks do not divide.",
            {"algo": "boft", "dim": 8},
        ),
    ),
    spellings=(),
    lycoris=("boft",),
    sd_scripts=(),
    read_by=((("a1111", "reforge", "neo"), "oft_blocks rescale alpha"),),
    wrong=dict.fromkeys(("reforge", "neo"), "the strength counts twice"),
    dropped=dict.fromkeys(("classic", "forge"), "it has no effect"),
)
