"""diag-OFT: a block-diagonal rotation of the outputs. Qiu et al. 2023, as LyCORIS has it."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_lab.algorithms.row import BLOCK, OF_BLOCK, AdapterType, Algorithm
from adapter_lab.option import option


@dataclass(kw_only=True)
class RotationOptions:
    """Settings of the rotations of outputs, diag-OFT and BOFT."""

    constraint: float = option(
        0.0, "Norm bound of the rotation generators (COFT); 0: none.", minimum=0, lycoris="constraint"
    )
    rescaled: bool = option(False, "Learn a magnitude per output channel after the rotation.", lycoris="rescaled")


DIAG_OFT = Algorithm(
    key="diag-oft",
    title="diag-OFT",
    weight="R^T W",
    reader="adapters.oft:DiagOFT",
    layer="training.forwards.oft:DiagOFTLayer",
    dim=BLOCK,
    shared=OF_BLOCK,
    own=RotationOptions,
    types=(
        AdapterType(
            "diag-oft",
            "diag-OFT",
            "Rotates blocks of each layer's outputs instead of adding to them, so that the angles between them stay: "
            "for a subject on a base you like as it is. In our demo it learns more slowly than LoRA.",
            {"algo": "diag-oft", "dim": 16, "conv_dim": 16},
        ),
    ),
    spellings=("oft", "diagoft"),
    lycoris=("diag-oft",),
    sd_scripts=(),
    read_by=((("a1111", "reforge", "neo"), "oft_blocks rescale alpha"),),
    wrong=dict.fromkeys(("reforge", "neo"), "the strength counts twice, and rescale is wrong"),
    dropped=dict.fromkeys(("classic", "forge"), "it has no effect"),
)
