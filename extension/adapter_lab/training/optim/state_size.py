"""How many bytes an optimiser keeps per parameter, by its shape; parameters are fp32."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from adapter_lab import library_optimizers
from adapter_lab.config import OptimizerConfig

Shape = tuple[int, ...]
# prodigyplus's defaults, which are the ones used.
PLUS_SLICE, PLUS_FACTORED_FROM = 11, 32
# bitsandbytes keeps smaller tensors in fp32, and a scale per block of this many values.
EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256


def state_bytes(shape: Shape, config: OptimizerConfig) -> int:
    """Bytes of the optimiser's state for one parameter, at most: Prodigy stores no start value of one that was zero."""
    if config.name in library_optimizers.NAMES:
        return library_optimizers.state_bytes(config.name, shape)
    return STATE[config.name](shape, config)


def _prodigy(shape: Shape, config: OptimizerConfig) -> int:
    values = prod(shape)
    return 4 * (2 * values + 2 * -(-values // config.slice_p))


def _prodigy_plus(shape: Shape, config: OptimizerConfig) -> int:
    values = prod(shape)
    second_moment = values
    if len(shape) > 1 and max(shape) >= PLUS_FACTORED_FROM:
        *_, second, first = sorted(shape)
        second_moment = values // first + values // second
    return 4 * (values + second_moment) + 2 * 2 * -(-values // PLUS_SLICE)


def _adamw(shape: Shape, config: OptimizerConfig) -> int:
    return 4 * (2 * prod(shape) + 1)


def _adamw8bit(shape: Shape, config: OptimizerConfig) -> int:
    values = prod(shape)
    if values < EIGHT_BIT_FROM:
        return 8 * values
    return 2 * (values + 4 * -(-values // EIGHT_BIT_BLOCK))


def _adafactor(shape: Shape, config: OptimizerConfig) -> int:
    if len(shape) < 2:
        return 4 * prod(shape)
    return 4 * (prod(shape[:-1]) + prod(shape[:-2]) * shape[-1])


def _lion(shape: Shape, config: OptimizerConfig) -> int:
    return 4 * prod(shape)


STATE: dict[str, Callable[[Shape, OptimizerConfig], int]] = {
    "prodigy": _prodigy,
    "prodigy-plus-schedule-free": _prodigy_plus,
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "lion": _lion,
}
