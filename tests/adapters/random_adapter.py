"""Random adapter tensors for any target, of any algorithm, without LyCORIS."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from adapter_lab.adapters.keys import Target

Shape = tuple[int, ...]


def draw(*sizes: int) -> Tensor:
    """Small random numbers."""
    return torch.randn(sizes) * 0.1


def _lora(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    ones = [1] * (len(shape) - 2)
    up, down = draw(shape[0], rank, *ones), draw(rank, *shape[1:])
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(rank / 2)}


def _dora(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    return {**_lora(shape, rank, bias), "dora_scale": draw(shape[0], 1, *[1] * (len(shape) - 2)) + 1}


def _loha(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    rest = math.prod(shape[1:])
    halves = {f"hada_w{i}_a": draw(shape[0], rank) for i in (1, 2)} | {f"hada_w{i}_b": draw(rank, rest) for i in (1, 2)}
    return {**halves, "alpha": torch.tensor(rank / 2)}


def _lokr(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    second = {"lokr_w2_a": draw(shape[0] // 2, rank), "lokr_w2_b": draw(rank, math.prod(shape[1:]) // 2)}
    return {"lokr_w1": draw(2, 2), **second, "alpha": torch.tensor(rank / 2)}


def _glora(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    ones = [1] * (len(shape) - 2)
    factors = {"a1": draw(shape[1], rank, *ones), "a2": draw(rank, shape[1], *ones)}
    factors |= {"b1": draw(shape[0], rank, *ones), "b2": draw(rank, *shape[1:])}
    return {**{f"{name}.weight": tensor for name, tensor in factors.items()}, "alpha": torch.tensor(rank / 2)}


def _full(shape: Shape, rank: int, bias: bool) -> dict[str, Tensor]:
    return {"diff": draw(*shape), **({"diff_b": draw(shape[0])} if bias else {})}


# Tensors by suffix of a module with a weight of this shape (`bias`: with a bias too), of each form that files have.
FORMS: dict[str, Callable[[Shape, int, bool], dict[str, Tensor]]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "diag-oft": lambda shape, *_: {"oft_blocks": draw(shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)},
    "boft": lambda shape, *_: {"oft_blocks": draw(2, shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)},
    "ia3": lambda shape, *_: {"weight": draw(shape[0]), "on_input": torch.tensor(0)},
    "full": _full,
    "dora": _dora,
    "oftv2": lambda shape, *_: {"oft_R.weight": draw(math.prod(shape[1:]) // 4, 6)},
}
ALGORITHMS = tuple(FORMS)


def random_tensors(algorithm: str, shape: Shape, rank: int = 2, bias: bool = False) -> dict[str, Tensor]:
    """Tensors by suffix of a module of `algorithm` for a weight of `shape`; a norm's for one-dimensional shapes."""
    if len(shape) == 1:
        return {"w_norm": draw(shape[0]), **({"b_norm": draw(shape[0])} if bias else {})}
    return FORMS[algorithm](shape, rank, bias)


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
