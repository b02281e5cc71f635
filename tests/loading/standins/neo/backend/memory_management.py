"""Stand-in for `backend.memory_management`: counts what it is asked for."""

import torch

calls: list[str] = []


def unload_all_models() -> None:
    calls.append("unload_all_models")


def soft_empty_cache(force: bool = False) -> None:
    calls.append("soft_empty_cache")


def lora_compute_dtype(device: torch.device) -> torch.dtype:
    """As on most GPUs."""
    return torch.float16
