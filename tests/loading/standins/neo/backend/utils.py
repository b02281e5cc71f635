"""Stand-in for `backend.utils`."""

from typing import Any

import safetensors.torch
import torch
from modules_forge.packages.comfy.weight_adapter import WeightAdapterBase


def load_torch_file(ckpt: str, safe_load: bool = False, device: Any = None) -> Any:
    return safetensors.torch.load_file(ckpt)


def nested_compute_size(obj: Any, element_size: int) -> int:
    if isinstance(obj, dict):
        return sum(nested_compute_size(value, element_size) for value in obj.values())
    if isinstance(obj, (list, tuple)):
        return sum(nested_compute_size(value, element_size) for value in obj)
    if isinstance(obj, torch.Tensor):
        return obj.nelement() * element_size
    return nested_compute_size(obj.weights, element_size) if isinstance(obj, WeightAdapterBase) else 0
