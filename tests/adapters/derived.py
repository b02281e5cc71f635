"""A small checkpoint with one layer of each type, adapters of every kind for it, and what a file changes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters.base import patch, patch_bias
from adapter_lab.adapters.file import AdapterFile, save_adapter
from tests.support.adapter_cases import CASES, LAYER_TYPES, adapter_layer, base_module

TOP = "model.diffusion_model"
# A layer of each type, by its name in a checkpoint.
PLACES = {
    "linear": f"{TOP}.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
    "conv 1x1": f"{TOP}.input_blocks.1.0.skip_connection",
    "conv 3x3": f"{TOP}.input_blocks.1.0.in_layers.2",
    "strided": f"{TOP}.input_blocks.3.0.op",
}
NORM = f"{TOP}.input_blocks.1.0.in_layers.0"
NAMES = {kind: "lora_unet_" + place.removeprefix(f"{TOP}.").replace(".", "_") for kind, place in PLACES.items()}
NORM_NAME = "lora_unet_input_blocks_1_0_in_layers_0"
EVERY_CASE = [(case, layer_type) for case in CASES for layer_type in LAYER_TYPES]


def base_tensors() -> dict[str, Tensor]:
    """The checkpoint's tensors in fp64."""
    tensors = {f"{TOP}.input_blocks.0.0.weight": torch.randn(8, 4, 3, 3, dtype=torch.float64)}
    for seed, (kind, place) in enumerate(PLACES.items()):
        module: Any = base_module(kind, bias=True, seed=seed)
        tensors |= {f"{place}.weight": module.weight.detach(), f"{place}.bias": module.bias.detach()}
    tensors |= {f"{NORM}.weight": torch.rand(16, dtype=torch.float64) + 0.5, f"{NORM}.bias": torch.rand(16).double()}
    return {**tensors, "cond_stage_model.transformer.x": torch.zeros(1)}


def save_base(path: Path) -> Path:
    """Write the checkpoint."""
    save_adapter(path, base_tensors(), {})
    return path


def case_tensors(case: str, seed: int = 2) -> dict[str, Tensor]:
    """A file's tensors of one case of `adapter_cases` on every layer type, in fp64."""
    base = base_tensors()
    tensors = {}
    for number, (kind, place) in enumerate(PLACES.items()):
        module: Any = base_module(kind, bias=True, seed=number)
        assert torch.equal(module.weight, base[f"{place}.weight"])
        layer = adapter_layer(CASES[case], module, seed=seed + number)
        tensors |= {f"{NAMES[kind]}.{suffix}": tensor.detach() for suffix, tensor in layer.file_tensors().items()}
    return tensors


def applied(files: list[tuple[Path, float]]) -> dict[str, Tensor]:
    """Weights and biases of the checkpoint with these files at these strengths, in fp64, by name in the checkpoint."""
    tensors = base_tensors()
    places = {**{NAMES[kind]: place for kind, place in PLACES.items()}, NORM_NAME: NORM}
    for path, strength in files:
        file = AdapterFile.open(path)
        for name in file.modules:
            adapter, place = file.load(name, torch.float64), places[name]
            if file.has_weight(name):
                tensors[f"{place}.weight"] = patch(tensors[f"{place}.weight"], adapter, strength)
            changed = patch_bias(tensors[f"{place}.bias"], adapter, strength)
            assert changed is not None
            tensors[f"{place}.bias"] = changed
    return tensors


def largest_error(found: list[tuple[Path, float]], expected: list[tuple[Path, float]]) -> float:
    """The largest relative error of a tensor's change."""
    base, one, other = base_tensors(), applied(found), applied(expected)
    errors = []
    for key, before in base.items():
        change = (other[key] - before).norm()
        if change or (one[key] - before).norm():
            errors.append(float((one[key] - other[key]).norm() / change))
    assert errors
    return max(errors)
