"""The inputs the probe multiplies every weight with, in the web UI and in the tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLUMNS = 2


def probe_input(size: int) -> Tensor:
    """(size, COLUMNS) numbers between -1 and 1 in fp64 that every torch computes alike."""
    steps = torch.arange(1, size * COLUMNS + 1, dtype=torch.float64).reshape(size, COLUMNS)
    return torch.cos(steps * math.sqrt(2)) * torch.sin(steps * math.e)
