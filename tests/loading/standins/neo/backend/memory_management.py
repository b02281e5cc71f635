"""Stand-in for `backend.memory_management`: counts what it is asked for."""

from __future__ import annotations

from typing import Any

import torch

calls: list[str] = []


def unload_all_models() -> None:
    calls.append("unload_all_models")


def load_models_gpu(models: list[Any], memory_required: int = 0) -> None:
    for patcher in models:
        patcher.load()


def soft_empty_cache(force: bool = False) -> None:
    calls.append("soft_empty_cache")


def lora_compute_dtype(device: torch.device) -> torch.dtype:
    """As on most GPUs."""
    return torch.float16
