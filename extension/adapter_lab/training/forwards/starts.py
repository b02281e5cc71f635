"""Factors that a LoRA may begin with instead of zero: what they add at first is subtracted again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from adapter_lab.training.forwards.spec import LayerSpec, Shape

# Directions looked at beyond those wanted, and rounds, of the randomised decomposition (Halko et al. 2011).
BEYOND, ROUNDS = 8, 4


def start_factors(spec: LayerSpec, down: Shape, up: Shape, weight: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """down and up to begin with, fp32 on the CPU, of these shapes; drawn from torch's generator.

    "orthogonal": orthonormal rows of down and columns of up. "svd": the largest directions of the weight, such that
    scale up down is their part of it (PiSSA, Meng et al. 2024).
    """
    rank, inputs, outputs = down[0], math.prod(down[1:]), up[0]
    if spec.init == "orthogonal":
        return orthonormal_rows(rank, inputs).view(down), orthonormal_rows(rank, outputs).T.reshape(up)
    flat = weight().detach().float().flatten(1).cpu()
    most = min(outputs, inputs)
    left, sizes, right = torch.svd_lowrank(flat, q=min(rank + BEYOND, most), niter=ROUNDS)
    found = min(rank, most)
    roots = (sizes[:found] / spec.scale).sqrt()
    first, second = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
    first[:found], second[:, :found] = roots[:, None] * right[:, :found].T, left[:, :found] * roots
    return first.view(down), second.reshape(up)


def orthonormal_rows(count: int, width: int) -> Tensor:
    """`count` random orthonormal rows (count, width) fp32; where they are more than fit, as many sets as it takes."""
    sets = [torch.linalg.qr(torch.randn(width, min(count - start, width)))[0].T for start in range(0, count, width)]
    return torch.cat(sets)
