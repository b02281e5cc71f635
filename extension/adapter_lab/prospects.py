"""What a configuration can come to within its budget: arithmetic on rates, before anything is loaded.

Prodigy finds its learning rate d while it trains: it begins at d0 and grows by at most `optimizer.growth_rate` per step.
Where d may not get far enough within the run, nothing is learned, whatever the gradients say.
"""

from __future__ import annotations

import math
from dataclasses import replace

from adapter_lab.config import OptimizerConfig

# Adapters of every type learn well before d is this large, so a limit that allows it holds nothing back.
ENOUGH = 1e-3
# With growth_rate "auto" that is allowed within this share of a run.
SHARE = 0.1
# The study's limit, made for runs of thousands of steps: "auto" is never slower.
SLOWEST = 1.01


def growth_limit(config: OptimizerConfig, steps: int) -> float:
    """Largest factor by which Prodigy's d may grow in one step of a run of `steps` optimiser steps; inf: any.

    `steps` 0: unknown, as with a budget of minutes; "auto" then sets no limit.
    """
    if config.growth_rate != "auto":
        return config.growth_rate or math.inf
    if not steps:
        return math.inf
    growth = max(1.0, ENOUGH / config.d0) if config.d0 > 0 else math.inf
    return max(SLOWEST, growth ** (1 / (SHARE * steps)))


def with_growth_limit(config: OptimizerConfig, steps: int) -> OptimizerConfig:
    """A copy whose growth_rate is the number that a run of `steps` optimiser steps uses, 0 for no limit."""
    limit = growth_limit(config, steps)
    return replace(config, growth_rate=0.0 if limit == math.inf else limit)
