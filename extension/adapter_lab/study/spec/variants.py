"""Variants in tables: the eleven of the study that this program automates, a toy version of them, and products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adapter_lab.algorithms import ADAPTER_TYPES, IN_BLOCKS, LOW_RANK
from adapter_lab.config import ALGORITHMS
from adapter_lab.errors import ConfigError
from adapter_lab.study.spec.definition import Variant

Settings = dict[str, Any]


def _network(**values: Any) -> Settings:
    """Settings of the network by path; convolutions get the alpha of the rest."""
    return {f"network.{name}": value for name, value in values.items()}


def eleven(dim: int = 32, loha: int = 16, small_loha: int = 6, block: int = 16, scale: float = 0.5) -> list[Variant]:
    """The study's eleven: every type but the first with text encoders, from LoCon on with convolutions.

    `dim` is the rank of all but LoHa, whose two are `loha` and `small_loha`, GLoRA, whose two pairs per layer have half
    of it, and diag-OFT, whose blocks have the size `block`; alpha is `scale` times the rank. Tucker's decomposition of
    3x3 convolutions is on where a type has it: the sizes of the study's files show that.
    """

    def ranked(algo: str, rank: int, **options: Any) -> Settings:
        return _network(algo=algo, dim=rank, alpha=scale * rank, **options)

    def convolved(algo: str, rank: int, **options: Any) -> Settings:
        return ranked(algo, rank, conv_dim=rank, train_te=True, **options)

    table: dict[str, Settings] = {
        # Said, not left out: what the variants share may train text encoders.
        "LoRA": ranked("lora", dim, train_te=False),
        "LoRA+TE": ranked("lora", dim, train_te=True),
        "LoCon": convolved("lora", dim, tucker=True),
        f"LoHa {loha}": convolved("loha", loha, tucker=True),
        f"LoHa {small_loha}": convolved("loha", small_loha, tucker=True),
        "LoKr f0": convolved("lokr", dim, tucker=True, factor=0),
        "LoKr f2": convolved("lokr", dim, tucker=True, factor=2),
        "LoKr f4": convolved("lokr", dim, tucker=True, factor=4),
        # The second factor is whole, so that it has neither dim nor alpha.
        "LoKr full": _network(algo="lokr", factor=4, full_matrix=True, conv_dim=dim, train_te=True),
        "GLoRA": convolved("glora", dim // 2),
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
        for dim in dims if algorithm in LOW_RANK + IN_BLOCKS else (0,):
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
    return [Variant(kind.title, _network(**kind.network)) for kind in ADAPTER_TYPES.values()]


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
