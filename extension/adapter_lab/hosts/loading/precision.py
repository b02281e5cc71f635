"""Arithmetic as it is written, whatever number formats the web UI has switched on around us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Neither autocast, which web UIs patch weights under, nor TF32, nor gradients."""
    with torch.no_grad(), _without_autocast(device), _without_tf32(device):
        yield


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # a kind of device that has none
        return nullcontext()


@contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    if device.type != "cuda" or not torch.backends.cuda.matmul.allow_tf32:
        yield
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = True
