"""What a configuration can come to within its budget: arithmetic on rates, before anything is loaded.

Prodigy finds its learning rate d while it trains: it begins at d0 and grows by at most `growth_rate` per step. Where d
may not get far enough within the run, nothing is learned, whatever the gradients say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from adapter_lab import algorithms
from adapter_lab.config import PRODIGIES, OptimizerConfig, RunConfig, TrainConfig


@dataclass(frozen=True)
class Start:
    """How Prodigy begins in runs of fewer than `below` optimiser steps: the numbers that "auto" comes to.

    `short`: an algorithm's `short_run_gain` counts; a Kronecker product, each of whose factors moves less than a whole
    update, has one.
    """

    below: float
    d0: float
    growth: float
    d_coef: float
    short: bool = False


# Left alone, d needs about 80 steps from 1e-6 to 1e-4, which short runs do not have; and long ones do not learn with a
# start that creeps up either (docs/learning-curve.md).
STARTS = (Start(500, 1e-4, math.inf, 2.0, short=True), Start(math.inf, 1e-4, math.inf, 1.0))
# For a budget of minutes, whose number of steps is not known.
UNKNOWN = STARTS[-1]
# Whole weights move by d itself.
WHOLE_D0 = 1e-6
# What d and other rates come to where adapters are learned.
USEFUL = 1e-4
# Measured on the toy model at batch 1 without a limit: d rests for so many steps, then grows so much in each.
IDLE, OWN_GROWTH = 20, 1.12
# Optimisers whose steps are no longer than the learning rate, with their usual one; and how far weights have to come
# before anything is seen.
SIGNED = {"adamw": 1e-4, "adamw8bit": 1e-4, "adafactor": 1e-4, "lion": 3e-5}
LEAST_WAY = 1e-3
# Below which a limit of an update leaves none of it to see.
SMALLEST_NORM = 1e-3
# Below which Adam's eps of 1e-8 is most of what the clipped gradient of one number is divided by.
SMALLEST_CLIP = 1e-4
SMALLEST_GAMMA = 1e-3


def start_of(steps: int) -> Start:
    """How Prodigy begins in a run of `steps` optimiser steps; 0: not known."""
    return next(start for start in STARTS if steps < start.below) if steps else UNKNOWN


def fitted(config: TrainConfig, steps: int) -> OptimizerConfig:
    """The optimiser's settings with the numbers that "auto" comes to in a run of `steps` optimiser steps; 0: not known.

    Where whole weights are trained, d is what they move by, and would be far too much at once with a short run's d0.
    """
    o, start = config.optimizer, start_of(steps)
    named = (config.network.algo, *(rule.algo for rule in config.network.rules))
    whole = any(row.whole_weights for row in algorithms.ROWS if row.key in named)
    row = algorithms.BY_KEY.get(config.network.algo)
    d_coef = start.d_coef * (row.short_run_gain if row and start.short else 1.0)
    limit = 0.0 if start.growth == math.inf else start.growth
    return replace(
        o,
        growth_rate=limit if o.growth_rate == "auto" else o.growth_rate,
        d0=(WHOLE_D0 if whole else start.d0) if o.d0 == "auto" else o.d0,
        # More than its package's own 1 was measured with Prodigy alone.
        d_coef=(d_coef if o.name == "prodigy" else min(1.0, d_coef)) if o.d_coef == "auto" else o.d_coef,
    )


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


def rounded_up(steps: int) -> int:
    """A number of steps with two digits that count."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return -(-steps // unit) * unit


def held_back(d0: float, growth: float, steps: int) -> str:
    """A sentence where d, which may grow by `growth` per step, cannot get far in `steps` steps; else ""."""
    needed = steps_until(d0, growth)
    if not steps or 0 <= needed <= steps / 2:
        return ""
    limit, remedy = f"optimizer.growth_rate {growth:.6g}", "Set optimizer.growth_rate to auto"
    if needed < 0:
        return f"{limit} keeps Prodigy's estimate d at its start {d0:.1e}: next to nothing is learned. {remedy}."
    if needed <= 5 * steps:
        remedy += f", or train for {rounded_up(2 * needed):,} steps or more"
    if needed <= steps:
        return (
            f"{limit} lets Prodigy's estimate d reach {USEFUL:g}, about what adapters need, only at step {needed:,} of "
            f"{steps:,}: most of the run learns little. {remedy}."
        )
    reached = d0 * math.exp(steps * math.log(growth))
    return (
        f"{limit} lets Prodigy's estimate d come to about {reached:.0e} at most in {steps:,} steps ({d0:g} x "
        f"{growth:.6g}^{steps}); adapters need about {USEFUL:g}, so next to nothing is learned. {remedy}."
    )


def _held_back(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name == "prodigy" and _number(o.d0) > 0:
        yield from filter(None, [held_back(_number(o.d0), _number(o.growth_rate) or math.inf, steps)])


def _low_start(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    needed = IDLE + max(0, steps_until(_number(o.d0), OWN_GROWTH))
    if o.name in PRODIGIES and o.growth_rate == 0 and 0 < _number(o.d0) < USEFUL and 0 < steps < 2 * needed:
        yield (
            f"optimizer.d0 is {o.d0:g}: Prodigy's estimate d needs about {needed} steps from there to {USEFUL:g}, much "
            f"of the {steps:,} steps of this run. Set optimizer.d0 to auto."
        )


def _no_estimate(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name not in PRODIGIES:
        return
    if (factor := _number(o.d_coef)) < 0.05:
        yield (
            f"optimizer.d_coef is {factor:g}, so Prodigy takes {factor:g} times the rate that it finds: 0.5 to 2 are "
            "usual."
        )
    if o.lr != "auto" and 0 < o.lr < 0.1:
        yield (
            f"optimizer.lr is {o.lr:g}, which {o.name} multiplies its own estimate by: it learns {_times(1 / o.lr)} "
            "times too slowly. Set optimizer.lr to 1."
        )


def _found_twice(config: TrainConfig, steps: int) -> Iterator[str]:
    ratio, name = config.network.lora_plus_ratio, config.optimizer.name
    if name in PRODIGIES and ratio > 1 and config.network.algo in (algorithms.users("lora_plus_ratio") or ()):
        yield (
            f"network.lora_plus_ratio is {ratio:g}, but {name} finds a rate for each side of the factors by itself, "
            "which this then multiplies: with 16 a run on our toy learned nothing. Set it to 1, or optimizer.name to "
            "adamw."
        )


def _low_rate(config: TrainConfig, steps: int) -> Iterator[str]:
    o = config.optimizer
    if o.name in SIGNED and o.lr != "auto" and 0 < o.lr * steps < LEAST_WAY:
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
    if config.dataset.tag_dropout == 1:
        yield (
            "dataset.tag_dropout is 1, so of captions only leading dataset.keep_tokens tags and trigger words are ever "
            "trained, where there are any. Lower it."
        )
    if config.dataset.caption_dropout == 1:
        yield (
            "dataset.caption_dropout is 1, so no caption is ever trained, and no word will ask for what is learned. "
            "Lower it."
        )
    if 0 < config.network.max_norm < SMALLEST_NORM:
        yield (
            f"network.max_norm is {config.network.max_norm:g}, to which every update is scaled down: next to nothing "
            "is learned. 1 is usual; 0 is no limit."
        )
    if 0 < config.optimizer.clip_grad_norm < SMALLEST_CLIP:
        yield (
            f"optimizer.clip_grad_norm is {config.optimizer.clip_grad_norm:g}, to which all gradients together are "
            "scaled down: next to nothing is learned. 1 is usual; 0 is no limit."
        )
    if 0 < config.loss.min_snr_gamma < SMALLEST_GAMMA:
        yield (
            f"loss.min_snr_gamma is {config.loss.min_snr_gamma:g}, which weighs the loss of nearly every noise level "
            "down to next to nothing. 5 is usual; 0 is off."
        )


def _no_mask(config: TrainConfig, steps: int) -> Iterator[str]:
    network = config.network
    if network.algo == "t-lora" and not isinstance(network.min_rank, str) and network.min_rank >= network.dim:
        yield (
            f"network.min_rank is {network.min_rank}, not below network.dim {network.dim}: no rank ever rests, so this "
            "trains as LoRA does. Set it to half."
        )


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


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor < 1e9 else f"{factor:.0e}"


def _number(value: float | str) -> float:
    """A setting that `fitted` has made a number."""
    return float(value)


CHECKS: tuple[Callable[[TrainConfig, int], Iterator[str]], ...] = (
    _held_back,
    _low_start,
    _no_estimate,
    _found_twice,
    _low_rate,
    _warm_up,
    _restarts,
    _dropped,
    _no_mask,
    _saves,
)
