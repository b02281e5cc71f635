"""Random adapter tensors for any target, of any algorithm, without LyCORIS."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adapter_lab.adapters.keys import Target

ALGORITHMS = ("lora", "loha", "lokr", "glora", "diag-oft", "boft", "ia3", "full", "dora", "oftv2")


def random_tensors(algorithm: str, shape: tuple[int, ...], rank: int = 2, bias: bool = False) -> dict[str, Tensor]:
    """Tensors by suffix of a module of `algorithm` for a weight of `shape`; a norm's for one-dimensional shapes."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes) * 0.1

    out, rest, ones = shape[0], math.prod(shape[1:]), [1] * (len(shape) - 2)
    alpha = {"alpha": torch.tensor(rank / 2)}
    if len(shape) == 1:
        return {"w_norm": draw(out), **({"b_norm": draw(out)} if bias else {})}
    lora = {"lora_up.weight": draw(out, rank, *ones), "lora_down.weight": draw(rank, *shape[1:]), **alpha}
    if algorithm == "lora":
        return lora
    if algorithm == "dora":
        return {**lora, "dora_scale": draw(out, 1, *ones) + 1}
    if algorithm == "loha":
        halves = {f"hada_w{i}_a": draw(out, rank) for i in (1, 2)} | {f"hada_w{i}_b": draw(rank, rest) for i in (1, 2)}
        return {**halves, **alpha}
    if algorithm == "lokr":
        return {"lokr_w1": draw(2, 2), "lokr_w2_a": draw(out // 2, rank), "lokr_w2_b": draw(rank, rest // 2), **alpha}
    if algorithm == "glora":
        factors = {"a1": draw(shape[1], rank, *ones), "a2": draw(rank, shape[1], *ones)}
        factors |= {"b1": draw(out, rank, *ones), "b2": draw(rank, *shape[1:])}
        return {**{f"{name}.weight": tensor for name, tensor in factors.items()}, **alpha}
    if algorithm == "diag-oft":
        return {"oft_blocks": draw(out // 4, 4, 4), "alpha": torch.tensor(0.0)}
    if algorithm == "boft":
        return {"oft_blocks": draw(2, out // 4, 4, 4), "alpha": torch.tensor(0.0)}
    if algorithm == "oftv2":
        return {"oft_R.weight": draw(rest // 4, 6)}
    if algorithm == "ia3":
        return {"weight": draw(out), "on_input": torch.tensor(0)}
    return {"diff": draw(*shape), **({"diff_b": draw(out)} if bias else {})}


def random_adapter(
    targets: dict[str, Target], algorithms: tuple[str, ...] = ALGORITHMS, seed: int = 0, rank: int = 2
) -> dict[str, dict[str, Tensor]]:
    """Tensors by suffix for each target, the algorithms in turn."""
    torch.manual_seed(seed)
    return {
        name: random_tensors(_possible(algorithms[i % len(algorithms)], target.shape), target.shape, rank,
                             bias=target.bias_key is not None)
        for i, (name, target) in enumerate(targets.items())
    }  # fmt: skip


def _possible(algorithm: str, shape: tuple[int, ...]) -> str:
    """`algorithm`, or LoRA where its blocks do not divide this shape."""
    if len(shape) > 1 and (shape[0] % 8 or math.prod(shape[1:]) % 4):
        return "lora"
    return algorithm
