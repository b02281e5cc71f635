"""LoKr: a Kronecker product whose second factor may be low-rank. Yeh et al. 2024 (LyCORIS)."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_lab.algorithms.row import EVERY_HOST, OF_DORA, OF_RANK, RANK, AdapterType, Algorithm
from adapter_lab.option import option


@dataclass(kw_only=True)
class LoKrOptions:
    """Settings of LoKr alone."""

    factor: int = option(
        -1,
        "Size of LoKr's first Kronecker factor; -1: as square as possible; 1: a scalar (LoRA with gain).",
        minimum=-1,
        basic=True,
        lycoris="factor",
    )
    full_matrix: bool = option(False, "LoKr: keep the second factor whole.", lycoris="full_matrix")
    decompose_both: bool = option(False, "LoKr: also decompose the first factor.", lycoris="decompose_both")
    unbalanced: bool = option(
        False, "LoKr: unbalanced factorisation of the output side.", lycoris="unbalanced_factorization"
    )


LOKR = Algorithm(
    key="lokr",
    title="LoKr",
    weight="W + s C x (B A)",
    reader="adapters.lokr:LoKr",
    layer="training.forwards.lokr:LoKrLayer",
    dim=RANK,
    shared=(*OF_RANK, *OF_DORA, "tucker", "max_norm"),
    own=LoKrOptions,
    types=(
        AdapterType(
            "lokr",
            "LoKr, factor 4",
            "A Kronecker product: small files with a large factor, nearly full rank with a small one. The study's "
            "favourite for characters; a higher factor loses far less quality than the file size suggests.",
            {"algo": "lokr", "dim": 32, "alpha": 16.0, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True, "factor": 4},
        ),
    ),
    spellings=(),
    lycoris=("lokr",),
    sd_scripts=("networks.lokr",),
    read_by=((EVERY_HOST, "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2 alpha dora_scale"),),
    wrong={},
    dropped={},
    short_run_gain=2.0,
)
