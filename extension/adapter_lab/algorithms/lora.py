"""LoRA and LoCon (LoRA on convolutions). Hu et al. 2021."""

from __future__ import annotations

from adapter_lab.algorithms.row import EVERY_HOST, OF_DORA, OF_RANK, RANK, AdapterType, Algorithm

LORA = Algorithm(
    key="lora",
    title="LoRA",
    weight="W + s B A",
    reader="adapters.lora:LoRA",
    layer="training.forwards.lora:LoRALayer",
    dim=RANK,
    shared=(*OF_RANK, *OF_DORA, "tucker", "max_norm", "lora_plus_ratio", "init"),
    own=None,
    types=(
        AdapterType(
            "lora",
            "LoRA",
            "The product of two thin matrices per layer: fast, small, read by every program. The one to start with.",
            {"algo": "lora", "dim": 32, "alpha": 16.0},
        ),
        AdapterType(
            "locon",
            "LoCon",
            "LoRA on the convolutions too: for styles and textures, where the attention layers alone are not enough; "
            "about a tenth slower than LoRA.",
            {"algo": "lora", "dim": 32, "alpha": 16.0, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True},
        ),
        AdapterType(
            "dora",
            "DoRA over LoRA",
            "A magnitude per channel beside the LoRA: nearer to full training at a low rank, about 1.6 times LoRA's "
            "work in its layers.",
            {"algo": "lora", "dim": 16, "alpha": 8.0, "dora": True},
        ),
    ),
    spellings=(),
    lycoris=("lora", "locon"),
    sd_scripts=("networks.lora", "networks.lora_fa", "networks.dylora", "lycoris.locon_kohya"),
    read_by=(
        (EVERY_HOST, "lora_up.weight lora_down.weight lora_mid.weight alpha dora_scale"),
        (("forge", "reforge", "neo"), "lora_A.weight lora_B.weight"),
    ),
    wrong={},
    dropped={},
)
