"""Tests of the trainer run on one thread: their tensors are so small that more threads only wait for each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
