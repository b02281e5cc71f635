"""Learning-rate schedules, as functions of the share of the budget that is used."""

from __future__ import annotations

import math
from collections.abc import Callable

from adapter_lab.config import OptimizerConfig


def schedule_factor(config: OptimizerConfig, step: int, progress: float) -> float:
    """Learning rate of the step after `step` finished ones, relative to the configured one.

    `progress`: share of the budget used so far, in [0, 1], whether that is counted in steps, epochs or minutes.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    progress = min(1.0, max(0.0, progress))
    return warmup * SCHEDULES[config.schedule](progress, config.restarts)


def _cosine(progress: float, restarts: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _cosine_restarts(progress: float, restarts: int) -> float:
    return _cosine((progress * restarts) % 1.0 if progress < 1 else 1.0, 1)


SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda progress, restarts: 1.0,
    "cosine": _cosine,
    "linear": lambda progress, restarts: 1.0 - progress,
    "cosine-restarts": _cosine_restarts,
}
