"""LoHa: the Hadamard product of two low-rank products. Hyeon-Woo et al. 2022 (FedPara)."""

from __future__ import annotations

from adapter_lab.algorithms.row import EVERY_HOST, OF_DORA, OF_RANK, RANK, AdapterType, Algorithm

LOHA = Algorithm(
    key="loha",
    title="LoHa",
    weight="W + s (B1 A1) * (B2 A2)",
    reader="adapters.loha:LoHa",
    layer="training.forwards.loha:LoHaLayer",
    dim=RANK,
    shared=(*OF_RANK, *OF_DORA, "tucker", "max_norm", "lora_plus_ratio"),
    own=None,
    types=(
        AdapterType(
            "loha",
            "LoHa",
            "The elementwise product of two LoRAs: a rank of up to dim squared from as many numbers, for several "
            "concepts in one file; slower per step, and in the study behind the others at equal time.",
            {"algo": "loha", "dim": 8, "alpha": 4.0, "conv_dim": 8, "conv_alpha": 4.0, "tucker": True},
        ),
    ),
    spellings=(),
    lycoris=("loha",),
    sd_scripts=("networks.loha",),
    read_by=((EVERY_HOST, "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 alpha dora_scale"),),
    wrong={},
    dropped={},
)
