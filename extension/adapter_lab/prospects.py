"""What a configuration can come to within its budget: arithmetic on rates, before anything is loaded.

Prodigy finds its learning rate d while it trains: it begins at d0 and grows by at most `growth_rate` per step. Where d
may not get far enough within the run, nothing is learned, whatever the gradients say.
"""

from __future__ import annotations

import math
from dataclasses import replace

from adapter_lab.config import OptimizerConfig, TrainConfig

# Runs of so many optimiser steps have time for the study's start, made for thousands of steps: d is 1e-4 after 463.
LONG = 5000
LONG_D0, LONG_GROWTH = 1e-6, 1.01
# Left alone, d needs about 60 steps from the one to the other, which a short run does not have.
SHORT_D0 = 1e-4


def growth_limit(config: OptimizerConfig, steps: int) -> float:
    """Largest factor by which Prodigy's d may grow in one step of a run of `steps` optimiser steps; inf: any.

    `steps` 0: unknown, as with a budget of minutes; such a run may be short.
    """
    if config.growth_rate == "auto":
        return LONG_GROWTH if steps >= LONG else math.inf
    return config.growth_rate or math.inf


def first_estimate(config: TrainConfig, steps: int) -> float:
    """Prodigy's first d in a run of `steps` optimiser steps (0: unknown).

    Where whole weights are trained, d is what they move by, and 1e-4 would be far too much from the first step on.
    """
    if config.optimizer.d0 != "auto":
        return config.optimizer.d0
    whole = "full" in (config.network.algo, *(rule.algo for rule in config.network.rules))
    return LONG_D0 if steps >= LONG or whole else SHORT_D0


def fitted(config: TrainConfig, steps: int) -> OptimizerConfig:
    """The optimiser's settings with the numbers that "auto" comes to in a run of `steps` optimiser steps."""
    limit = growth_limit(config.optimizer, steps)
    return replace(config.optimizer, growth_rate=0.0 if limit == math.inf else limit, d0=first_estimate(config, steps))
