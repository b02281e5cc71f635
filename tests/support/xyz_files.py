"""Adapter files of several types, each at several steps of one training, as trainers leave them in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapter_lab.adapters.keys import Target

STEPS = (400, 800, 1200, 1600)
# Name of a run's files -> its type as the axes call it.
TYPES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr f4", "oft": "diag-OFT"}


def tensors_of(kind: str, shape: tuple[int, ...], size: float) -> dict[str, Tensor]:
    """Random tensors by suffix of one module of a type in TYPES for a linear layer."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes) * size

    out, into = shape[:2]
    alpha = {"alpha": torch.tensor(4.0)}
    if kind == "lora":
        return {"lora_up.weight": draw(out, 4), "lora_down.weight": draw(4, into), **alpha}
    if kind == "loha":
        size *= 3  # a product of two products
        halves = {f"hada_w{i}_a": draw(out, 4) for i in (1, 2)} | {f"hada_w{i}_b": draw(4, into) for i in (1, 2)}
        return {**halves, **alpha}
    if kind == "lokr":
        return {"lokr_w1": draw(4, 4), "lokr_w2_a": draw(out // 4, 4), "lokr_w2_b": draw(4, into // 4), **alpha}
    return {"oft_blocks": draw(out // 8, 8, 8), "alpha": torch.tensor(0.0)}


def write_run(
    folder: Path,
    name: str,
    kind: str,
    modules: Mapping[str, Target],
    steps: tuple[int, ...] = STEPS,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """The files of one training, `name-000400.safetensors` and so on; larger the longer it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for step in steps:
        torch.manual_seed(step)
        tensors = {
            f"{module}.{suffix}": tensor
            for module, target in modules.items()
            for suffix, tensor in tensors_of(kind, target.shape, 0.05 + step / 8000).items()
        }
        entries = {
            "ss_steps": str(step),
            "ss_output_name": name,
            "ss_base_model_version": "sd_v1",
            "ss_dataset_dirs": json.dumps({"1_lucy": {"n_repeats": 1, "img_count": 40}}),
            **(metadata or {}),
        }
        path = folder / f"{name}-{step:06d}.safetensors"
        save_file(tensors, path.with_suffix(".tmp"), entries)
        path.with_suffix(".tmp").replace(path)
        paths.append(path)
    return paths


def linear_targets(table: Mapping[str, Target], every: int = 3) -> dict[str, Target]:
    """Every so many of the linear layers of UNet attentions and of the text encoder in a table of targets."""
    linear = {
        name: target
        for name, target in table.items()
        if target.kind == "linear" and len(target.shape) == 2 and ("attn" in name or "mlp" in name)
    }
    return dict(list(linear.items())[::every])
