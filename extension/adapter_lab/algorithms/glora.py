"""GLoRA: the weight's inputs and outputs changed at once. Chavan et al. 2023, as LyCORIS has it."""

from __future__ import annotations

from adapter_lab.algorithms.row import EVERY_HOST, OF_DORA, OF_RANK, RANK, AdapterType, Algorithm

GLORA = Algorithm(
    key="glora",
    title="GLoRA",
    weight="W + s (W A1 A2 + B1 B2)",
    reader="adapters.glora:GLoRA",
    layer="training.forwards.glora:GLoRALayer",
    dim=RANK,
    shared=(*OF_RANK, *OF_DORA),
    own=None,
    types=(
        AdapterType(
            "glora",
            "GLoRA",
            "Changes a layer's input side and output side at once: more expressive at the same rank, but read by fewer "
            "programs.",
            {"algo": "glora", "dim": 16, "alpha": 8.0, "conv_dim": 16, "conv_alpha": 8.0},
        ),
    ),
    spellings=(),
    lycoris=("glora",),
    sd_scripts=(),
    read_by=((EVERY_HOST, "a1.weight a2.weight b1.weight b2.weight alpha dora_scale"),),
    wrong={},
    dropped={},
)
