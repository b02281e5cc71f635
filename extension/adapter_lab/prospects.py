"""What a configuration can come to within its budget: arithmetic on rates, before anything is loaded.

Prodigy finds its learning rate d while it trains: it begins at d0 and grows by at most `growth_rate` per step. Where d
may not get far enough within the run, nothing is learned, whatever the gradients say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from adapter_lab.config import PRODIGIES, OptimizerConfig, RunConfig, TrainConfig

# Runs of so many optimiser steps have time for the study's start, made for thousands of steps: d is 1e-4 after 463.
LONG = 5000
LONG_D0, LONG_GROWTH = 1e-6, 1.01
# Left alone, d needs about 60 steps from the one to the other, which a short run does not have.
SHORT_D0 = 1e-4
# What d and other rates come to where adapters are learned.
USEFUL = 1e-4
# Measured on the toy model at batch 1 without a limit: d rests for so many steps, then grows so much in each.
IDLE, OWN_GROWTH = 20, 1.12
# Optimisers whose steps are no longer than the learning rate, with their usual one; and how far weights have to come
# before anything is seen.
SIGNED = {"adamw": 1e-4, "adamw8bit": 1e-4, "adafactor": 1e-4, "lion": 3e-5}
LEAST_WAY = 1e-3


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


# What makes a run pointless within its budget


def known_steps(run: RunConfig, steps_per_epoch: int = 0) -> int:
    """Optimiser steps that a run will take; 0: not known, since time may end it or its epochs' length is not known."""
    return 0 if run.minutes or (run.epochs and not steps_per_epoch) else most_steps(run, steps_per_epoch)


def most_steps(run: RunConfig, steps_per_epoch: int = 0) -> int:
    """Optimiser steps after which a run ends at the latest; 0: not known."""
    return min((limit for limit in (run.steps, run.epochs * steps_per_epoch) if limit), default=0)


def prospects(config: TrainConfig, steps_per_epoch: int = 0) -> list[str]:
    """Sentences on settings with which a run of this budget learns next to nothing, or not what they say.

    `steps_per_epoch`: optimiser steps, needed where epochs are counted; 0: not known.
    """
    steps = most_steps(config.run, steps_per_epoch)
    config = replace(config, optimizer=fitted(config, known_steps(config.run, steps_per_epoch)))
    return [sentence for check in CHECKS for sentence in check(config, steps)]


def steps_until(d0: float, growth: float, wanted: float = USEFUL) -> int:
    """Steps after which an estimate that begins at `d0` may be `wanted`; 0 where it may at once, -1 where never."""
    if d0 >= wanted or growth == math.inf:
        return 0
    return math.ceil(math.log(wanted / d0) / math.log(growth)) if growth > 1 and d0 > 0 else -1


def held_back(d0: float, growth: float, steps: int) -> str:
    """A sentence where d, which may grow by `growth` per step, cannot get far in `steps` steps; else ""."""
    needed = steps_until(d0, growth)
    if not steps or 0 <= needed <= steps / 2:
        return ""
    limit, remedy = f"optimizer.growth_rate {growth:g}", "Set optimizer.growth_rate to auto"
    if needed < 0:
        return f"{limit} keeps Prodigy's estimate d at its start {d0:.1e}: next to nothing is learned. {remedy}."
    if needed <= steps:
        return (
            f"{limit} lets Prodigy's estimate d reach {USEFUL:g}, about what adapters need, only at step {needed:,} of "
            f"{steps:,}: most of the run learns little. {remedy}."
        )
    reached = d0 * math.exp(steps * math.log(growth))
    return (
        f"{limit} lets Prodigy's estimate d come to at most {reached:.1e} in {steps:,} steps ({d0:g} x "
        f"{growth:g}^{steps}); adapters need about {USEFUL:g}, so next to nothing is learned. {remedy}, or train for "
        f"{2 * needed:,} steps or more."
    )


def _held_back(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name == "prodigy" and _number(o.d0) > 0:
        yield from filter(None, [held_back(_number(o.d0), growth_limit(o, steps), steps)])


def _low_start(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    needed = IDLE + max(0, steps_until(_number(o.d0), OWN_GROWTH))
    if o.name in PRODIGIES and o.growth_rate == 0 and 0 < _number(o.d0) < SHORT_D0 and 0 < steps < 2 * needed:
        yield (
            f"optimizer.d0 is {o.d0:g}: Prodigy's estimate d needs about {needed} steps from there to {USEFUL:g}, much "
            f"of the {steps:,} steps of this run. Set optimizer.d0 to auto."
        )


def _no_estimate(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name not in PRODIGIES:
        return
    if o.d0 == 0:
        yield "optimizer.d0 is 0, from which Prodigy's estimate d never grows: set optimizer.d0 to auto."
    if o.d_coef < 0.05:
        yield (
            f"optimizer.d_coef is {o.d_coef:g}, so Prodigy takes {o.d_coef:g} times the learning rate it finds; 0.5 to "
            "2 are usual."
        )
    if 0 < o.lr < 0.1:
        yield (
            f"optimizer.lr is {o.lr:g}, which {o.name} multiplies its own estimate by: it learns {1 / o.lr:,.0f} times "
            "too slowly. Set optimizer.lr to 1."
        )


def _low_rate(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name in SIGNED and 0 < o.lr * steps < LEAST_WAY:
        yield (
            f"optimizer.lr {o.lr:g} moves no weight by more than about {o.lr * steps:.0e} in {steps:,} steps, so next "
            f"to nothing is learned. Raise optimizer.lr ({SIGNED[o.name]:g} is usual), or train for longer."
        )


def _warm_up(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.warmup_ratio == 1:
        yield "optimizer.warmup_ratio is 1, the whole budget: the full learning rate is never reached."
    elif steps and o.warmup_steps >= steps and not o.warmup_ratio:
        yield (
            f"optimizer.warmup_steps {o.warmup_steps:,} is not below the run's {steps:,} steps: the full learning rate "
            "is never reached."
        )


def _restarts(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.schedule == "cosine-restarts" and 0 < steps <= 2 * o.restarts:
        yield (
            f"optimizer.restarts {o.restarts:,} leaves each cycle {steps / o.restarts:.2g} of the run's {steps:,} "
            "steps: the learning rate jumps instead of falling. Take fewer."
        )


def _dropped(config: TrainConfig, steps: int) -> Iterator[str]:
    for name in ("dropout", "rank_dropout", "module_dropout"):
        if getattr(config.network, name) == 1:
            yield f"network.{name} is 1, which leaves everything out in every step: nothing is learned. Lower it."


def _saves(config: TrainConfig, steps: int) -> Iterator[str]:
    save, run = config.save, config.run
    for name, amount, budget in (
        ("every_steps", save.every_steps, steps),
        ("every_epochs", save.every_epochs, run.epochs),
        ("every_minutes", save.every_minutes, run.minutes),
    ):
        if 0 < budget < amount:
            unit = name.removeprefix("every_")
            yield f"save.{name} {amount:g} is above the run's {budget:g} {unit}: only the adapter at its end is saved."


def _number(value: float | str) -> float:
    """A setting that `fitted` has made a number."""
    return float(value)


CHECKS: tuple[Callable[[TrainConfig, int], Iterator[str]], ...] = (
    _held_back,
    _low_start,
    _no_estimate,
    _low_rate,
    _warm_up,
    _restarts,
    _dropped,
    _saves,
)
