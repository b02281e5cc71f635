"""Variants of one size: the dim, or for whole LoKr matrices the factor, that gives a wanted number of parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping

from adapter_lab.adapters.keys import Target
from adapter_lab.algorithms import IN_BLOCKS, LOW_RANK
from adapter_lab.config import TrainConfig, trained_network
from adapter_lab.errors import ConfigError
from adapter_lab.training.network.plan import plan_network

LARGEST_DIM = 4096
LARGEST_FACTOR = 64
LARGEST_BLOCK = 128
# Small layers stop growing with dim before large ones do, so some neighbours are tried as well.
NEIGHBOURS = 3


def parameters_of(config: TrainConfig, targets: Mapping[str, Target]) -> int:
    """How many numbers a configuration trains on a base with these targets."""
    return sum(plan.trainable_parameters for plan in plan_network(trained_network(config), targets))


def of_size(config: TrainConfig, targets: Mapping[str, Target], wanted: int) -> TrainConfig:
    """A copy of `config` with about `wanted` trained parameters: as near as whole dims or factors come.

    conv_dim keeps its ratio to dim but for rounding, and alphas theirs to their dims. Raises ConfigError for algorithms
    without a size.
    """
    network = config.network
    if network.algo == "lokr" and network.full_matrix:
        return _nearest((_with_factor(config, factor) for factor in range(1, LARGEST_FACTOR + 1)), targets, wanted)
    if network.algo in IN_BLOCKS:  # larger blocks may be fewer parameters, so all are looked at
        found = _nearest((_with_dim(config, block) for block in range(2, LARGEST_BLOCK + 1)), targets, wanted)
        return _nearest(_with_conv_dims(config, found.network.dim), targets, wanted)
    if network.algo not in LOW_RANK:
        raise ConfigError(
            f"network.algo {network.algo} has no dim, so it cannot be made of {wanted:,} parameters; set "
            "budget.parameters to 0 or leave this variant out."
        )
    dims = _dims_around(config, targets, wanted)
    return _nearest((changed for dim in dims for changed in _with_conv_dims(config, dim)), targets, wanted)


def _nearest(configs: Iterable[TrainConfig], targets: Mapping[str, Target], wanted: int) -> TrainConfig:
    """The first of those whose number of parameters is nearest; raises ConfigError where none is possible."""
    best: tuple[float, TrainConfig] | None = None
    failure = ConfigError("No size is possible.")
    for config in configs:
        try:
            distance = abs(math.log(parameters_of(config, targets) / wanted))
        except ConfigError as error:  # blocks that do not fit
            failure = error
            continue
        if best is None or distance < best[0]:
            best = (distance, config)
    if best is None:
        raise failure
    return best[1]


def _dims_around(config: TrainConfig, targets: Mapping[str, Target], wanted: int) -> list[int]:
    """The dims near the one where the number of parameters passes `wanted`."""

    def size(dim: int) -> float:
        try:
            return parameters_of(_with_dim(config, dim), targets)
        except ConfigError:  # blocks of a rule's algorithm that do not fit
            return math.nan

    low, high = 1, 2
    while high < LARGEST_DIM and not size(high) >= wanted:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) >= wanted else (middle, high)
    return list(range(max(1, low - NEIGHBOURS), min(LARGEST_DIM, high + NEIGHBOURS) + 1))


def _with_conv_dims(config: TrainConfig, dim: int) -> Iterator[TrainConfig]:
    """`dim` with the conv_dim that keeps the ratio, and with its neighbours, for sizes between those of two dims."""
    changed = _with_dim(config, dim)
    yield changed
    for distance in range(1, NEIGHBOURS + 1) if changed.network.conv_dim else ():
        for conv_dim in (changed.network.conv_dim - distance, changed.network.conv_dim + distance):
            if conv_dim >= 1:
                yield _with_dim(config, dim, conv_dim)


def _with_dim(config: TrainConfig, dim: int, conv_dim: int = 0) -> TrainConfig:
    changed = copy.deepcopy(config)
    old, new = config.network, changed.network
    new.dim = dim
    if old.conv_dim:
        new.conv_dim = conv_dim or max(1, round(dim * old.conv_dim / old.dim))
    if old.algo in LOW_RANK:
        if not isinstance(old.alpha, str):
            new.alpha = old.alpha * dim / old.dim
        if old.conv_dim and not isinstance(old.conv_alpha, str):
            new.conv_alpha = old.conv_alpha * new.conv_dim / old.conv_dim
    return changed


def _with_factor(config: TrainConfig, factor: int) -> TrainConfig:
    changed = copy.deepcopy(config)
    changed.network.factor = factor
    return changed
