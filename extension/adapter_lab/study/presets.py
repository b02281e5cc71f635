"""Variants in tables: the eleven of the study that this program automates, a toy version of them, and products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adapter_lab.config import ALGORITHMS, LOW_RANK, ORTHOGONAL
from adapter_lab.errors import ConfigError
from adapter_lab.kinds import KINDS
from adapter_lab.study.definition import Variant

Settings = dict[str, Any]


def _network(conv_dim: int = 0, train_te: bool = False, **values: Any) -> Settings:
    """Settings of the network by path; convolutions get the alpha of the rest."""
    if conv_dim:
        values["conv_dim"] = conv_dim
    if train_te:
        values["train_te"] = True
    return {f"network.{name}": value for name, value in values.items()}


def eleven(dim: int = 32, loha: int = 16, small_loha: int = 6, block: int = 16, scale: float = 0.5) -> list[Variant]:
    """The study's eleven: every type but the first with text encoders, from LoCon on with convolutions.

    `dim` is the rank of all but LoHa, whose two are `loha` and `small_loha`, and diag-OFT, whose blocks have the size
    `block`; alpha is `scale` times the dim.
    """

    def alphas(rank: int) -> Settings:
        return {"dim": rank, "alpha": scale * rank}

    def lokr(**options: Any) -> Settings:
        return _network(algo="lokr", conv_dim=dim, train_te=True, **alphas(dim), **options)

    table: dict[str, Settings] = {
        "LoRA": _network(algo="lora", **alphas(dim)),
        "LoRA+TE": _network(algo="lora", train_te=True, **alphas(dim)),
        "LoCon": _network(algo="lora", conv_dim=dim, train_te=True, **alphas(dim)),
        f"LoHa {loha}": _network(algo="loha", conv_dim=loha, train_te=True, **alphas(loha)),
        f"LoHa {small_loha}": _network(algo="loha", conv_dim=small_loha, train_te=True, **alphas(small_loha)),
        "LoKr f0": lokr(factor=0),
        "LoKr f2": lokr(factor=2),
        "LoKr f4": lokr(factor=4),
        # The second factor is whole, so that it has neither dim nor alpha.
        "LoKr full": _network(algo="lokr", factor=4, full_matrix=True, conv_dim=dim, train_te=True),
        "GLoRA": _network(algo="glora", conv_dim=dim, train_te=True, **alphas(dim)),
        "diag-OFT": _network(algo="diag-oft", dim=block, conv_dim=block, train_te=True),
    }
    return [Variant(name, settings) for name, settings in table.items()]


def product(
    algorithms: Iterable[str], dims: Sequence[int] = (16,), text_encoders: Sequence[bool] = (False,), conv: bool = False
) -> list[Variant]:
    """Every algorithm with every dim, with and without text encoders; alpha is half the dim.

    Raises ConfigError for an algorithm that is not known; those without a dim appear once per choice of text encoders.
    """
    variants = []
    for algorithm, text in itertools.product(algorithms, text_encoders):
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"{algorithm!r} is no algorithm; choose among {', '.join(ALGORITHMS)}.")
        for dim in dims if algorithm in LOW_RANK + ORTHOGONAL else (0,):
            variants.append(_of_product(algorithm, dim, text, conv))
    return variants


def _of_product(algorithm: str, dim: int, text: bool, conv: bool) -> Variant:
    values: dict[str, Any] = {"algo": algorithm}
    if dim:
        values["dim"] = dim
        if algorithm in LOW_RANK:
            values["alpha"] = dim / 2
        if conv:
            values["conv_dim"] = dim
    elif conv:
        values["train_conv"] = True
    name = f"{algorithm} {dim}" if dim else algorithm
    return Variant(name + ("+TE" if text else ""), _network(train_te=text, **values))


def every_type() -> list[Variant]:
    """Every adapter type of the tab once, as it is offered there."""
    return [Variant(kind.title, _network(**kind.network)) for kind in KINDS.values()]


# Name -> (title, what it is, its variants).
PRESETS: dict[str, tuple[str, str, Callable[[], list[Variant]]]] = {
    "eleven": (
        "The study's eleven",
        "LoRA with and without text encoder, LoCon, LoHa, LoKr by factor, GLoRA and diag-OFT, mostly at dim 32.",
        eleven,
    ),
    "small": (
        "The eleven, half as large",
        "The same at dim 16, for little memory or quick answers.",
        lambda: eleven(16, 8, 3, 8),
    ),
    "types": ("Every type once", "Each adapter type with its usual settings.", every_type),
}
