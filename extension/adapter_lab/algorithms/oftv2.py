"""OFTv2: a block-diagonal rotation of the inputs. Qiu et al. 2025, as PEFT and OneTrainer write it."""

from __future__ import annotations

from adapter_lab.algorithms.row import BLOCK, OF_BLOCK, AdapterType, Algorithm

OFTV2 = Algorithm(
    key="oftv2",
    title="OFTv2",
    weight="W R^T",
    reader="adapters.oftv2:OFTv2",
    layer="training.forwards.oftv2:OFTv2Layer",
    dim=BLOCK,
    shared=OF_BLOCK,
    own=None,
    types=(
        AdapterType(
            "oftv2",
            "OFTv2",
            "Rotates blocks of each layer's inputs instead of its outputs: like diag-OFT, and one learning rate suits "
            "blocks of every size. Forge Neo and PEFT read it.",
            {"algo": "oftv2", "dim": 32},
        ),
    ),
    spellings=("oft2", "oft-v2"),
    lycoris=(),
    sd_scripts=(),
    read_by=((("neo",), "oft_R.weight"),),
    wrong={},
    dropped=dict.fromkeys(("classic", "a1111", "forge", "reforge"), "its keys are unknown there"),
)
