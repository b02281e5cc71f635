"""OFTv2: a block-diagonal rotation of the inputs. Qiu et al. 2025, as PEFT and OneTrainer write it."""

from __future__ import annotations

from adapter_lab.algorithms.row import BLOCK, Algorithm

OFTV2 = Algorithm(
    key="oftv2",
    title="OFTv2",
    weight="W R^T",
    reader="adapters.oftv2:OFTv2",
    layer="",
    dim=BLOCK,
    shared=(),
    own=None,
    types=(),
    spellings=(),
    lycoris=(),
    sd_scripts=(),
    read_by=((("neo",), "oft_R.weight"),),
    wrong={},
    dropped=dict.fromkeys(("classic", "a1111", "forge", "reforge"), "its keys are unknown there"),
)
