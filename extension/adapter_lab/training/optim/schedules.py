"""Learning-rate schedules, as functions of the share of the budget that is used.

Warm-up comes first, and the schedule decays over what is left of the budget, as in transformers' schedules. A budget in
minutes has no number of steps: its length in steps is what the pace so far makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapter_lab.config import OptimizerConfig

# transformers' time scale of the inverse square root without a warm-up, in steps.
USUAL_TIMESCALE = 10_000
# Warm-up taken where its share of the budget is no number of steps yet: in the first step of a budget in minutes.
UNKNOWN_WARM_UP = 100


def schedule_factor(config: OptimizerConfig, step: int, progress: float, total_steps: int = 0) -> float:
    """Learning rate of the step after `step` finished ones, relative to the configured one.

    `progress`: share of the budget used so far, in [0, 1], whether that is counted in steps, epochs or minutes.
    `total_steps`: the budget in steps; 0: only time ends it.
    """
    progress = min(1.0, max(0.0, progress))
    expected = step / progress if progress > 0 else float(total_steps)
    warm_up = _warm_up_steps(config, expected)
    if step < warm_up:
        return (step + 1) / warm_up
    if config.schedule == "inverse-sqrt":
        return _inverse_sqrt(config, step, warm_up)
    warm = warm_up / expected if expected else 0.0
    left = min(1.0, max(0.0, (progress - warm) / (1 - warm))) if warm < 1 else 1.0
    lowest = config.min_lr_ratio
    return lowest + (1 - lowest) * SCHEDULES[config.schedule](left, config)


def _warm_up_steps(config: OptimizerConfig, expected: float) -> int:
    """Steps of warm-up in a budget that comes to `expected` steps; 0: not known yet."""
    if not config.warmup_ratio:
        return config.warmup_steps
    # Rounded down as sd-scripts does; the millionth is for products such as 0.29 * 100.
    return int(config.warmup_ratio * expected + 1e-6) if expected else UNKNOWN_WARM_UP


def _inverse_sqrt(config: OptimizerConfig, step: int, warm_up: int) -> float:
    """1 / sqrt of the steps since the warm-up, in units of the time scale; the budget plays no part."""
    timescale = (warm_up or USUAL_TIMESCALE) if isinstance(config.timescale, str) else config.timescale
    return 1.0 / math.sqrt((step + timescale - warm_up) / timescale)


def _cosine(progress: float, config: OptimizerConfig) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _cosine_restarts(progress: float, config: OptimizerConfig) -> float:
    return _cosine((progress * config.restarts) % 1.0 if progress < 1 else 1.0, config)


def _rex(progress: float, config: OptimizerConfig) -> float:
    """The rational schedule of Chen, Wolfe and Kyrillidis 2021 (REX)."""
    return (1.0 - progress) / (1.0 - 0.5 * progress)


# Of the share of the budget that is used after the warm-up: from 1 to 0.
SCHEDULES: dict[str, Callable[[float, OptimizerConfig], float]] = {
    "constant": lambda progress, config: 1.0,
    "cosine": _cosine,
    "linear": lambda progress, config: 1.0 - progress,
    "cosine-restarts": _cosine_restarts,
    "polynomial": lambda progress, config: (1.0 - progress) ** config.power,
    "rex": _rex,
}
