"""Presets: settings tried together, named base-type-memory, such as `sdxl-lokr-8gb`, and the study's recipe.

A preset is the sum of one row of each table. What fits is predicted by `training.memory`, see docs/presets.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.config import TrainConfig
from adapter_lab.config_file import from_tables
from adapter_lab.errors import ConfigError
from adapter_lab.families import BASES as ROWS

Tables = Mapping[str, Mapping[str, Any]]

BASES: dict[str, tuple[str, Tables]] = {
    row.key: (row.title, {"base": {"family": row.key}, "dataset": {"resolution": row.preset_resolution}})
    for row in ROWS.values()
}

# The types whose memory was predicted for every tier (docs/presets.md).
TYPES: dict[str, tuple[str, Tables]] = {
    key: (ADAPTER_TYPES[key].title, {"network": ADAPTER_TYPES[key].network})
    for key in ("lora", "locon", "loha", "lokr", "glora", "diag-oft", "dora")
}

# (base, memory of the card in GB) -> what goes with it.
TIERS: dict[tuple[str, int], Tables] = {
    (row.key, gigabytes): tables for row in ROWS.values() for gigabytes, tables in row.tiers.items()
}
STUDY = "study-sdxl-8gb"
# All of Prodigy's arguments, so that they stay the study's whatever the defaults are.
STUDY_TABLES: Tables = {
    "base": {"family": "sdxl"},
    "dataset": {"resolution": 1024},
    "network": {"algo": "lora", "dim": 32, "alpha": 16.0, "train_te": True},
    "optimizer": {
        "name": "prodigy",
        "lr": 1.0,
        "decouple": True,
        "weight_decay": 0.01,
        "d0": 1e-6,
        "d_coef": 0.5,
        "use_bias_correction": True,
        "betas": [0.9, 0.99],
        "slice_p": 10,
        "safeguard_warmup": True,
        "growth_rate": 1.01,
    },
    "precision": {"base_weights": "fp8", "gradient_checkpointing": True, "phased_loading": True},
    "run": {"batch_size": 2, "minutes": 450.0},
    "save": {"every_steps": 200, "dtype": "fp16"},
}


def preset_table() -> dict[str, str]:
    """Every preset's name with what it is for."""
    table = {STUDY: "The study's recipe: SDXL at 1024 px, LoRA 32 with both text encoders, batch 2, 450 minutes, 8 GB."}
    for base, gigabytes in TIERS:
        for kind in TYPES:
            if kind == "locon" and not ROWS[base].convolutions:
                continue  # nothing would tell it from LoRA
            about = f"{TYPES[kind][0]} on {BASES[base][0]} with {gigabytes} GB of GPU memory."
            table[f"{base}-{kind}-{gigabytes}gb"] = about
    return table


def preset(name: str) -> TrainConfig:
    """The configuration of a preset; raises ConfigError for an unknown name, with the nearest known one."""
    if name == STUDY:
        return from_tables(STUDY_TABLES, f"Preset {name}")
    if name not in preset_table():
        near = difflib.get_close_matches(name, preset_table(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"There is no preset {name}{hint} `adapter-lab presets` lists them all.")
    base, kind, gigabytes = parts(name)
    config = TrainConfig()
    for tables in (BASES[base][1], TYPES[kind][1], TIERS[base, gigabytes]):
        config = from_tables(tables, f"Preset {name}", config)
    return config


def parts(name: str) -> tuple[str, str, int]:
    """Base family, type and memory in GB of a preset's name."""
    if name == STUDY:
        return "sdxl", "lora", 8
    base = next(key for key in BASES if name.startswith(f"{key}-"))
    kind, memory = name.removeprefix(f"{base}-").rsplit("-", 1)
    return base, kind, int(memory.removesuffix("gb"))
