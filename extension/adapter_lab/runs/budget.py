"""How long a run trains and when it saves: steps, epochs and minutes.

The minutes of a budget are training time: reading images, forward, backward and optimiser. Loading, caching, saving,
sample images and validation do not count, so that variants that are compared get the same time to learn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapter_lab.config import RunConfig, SaveConfig


class Stopwatch:
    """Training time in seconds; runs only inside `running()`."""

    def __init__(self, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time spent inside."""
        begin = self._clock()
        try:
            yield
        finally:
            self.seconds += self._clock() - begin


@dataclass(frozen=True)
class RunBudget:
    """When training ends; a limit of 0 is none, and the first limit reached ends it."""

    steps: int
    epochs: int
    minutes: float
    steps_per_epoch: int

    @classmethod
    def of(cls, config: RunConfig, steps_per_epoch: int) -> RunBudget:
        """The budget of a run whose epochs have `steps_per_epoch` optimiser steps."""
        return cls(config.steps, config.epochs, config.minutes, steps_per_epoch)

    @property
    def total_steps(self) -> int:
        """Steps after which training ends at the latest; 0: only time ends it."""
        limits = [limit for limit in (self.steps, self.epochs * self.steps_per_epoch) if limit]
        return min(limits, default=0)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget used after `step` steps and `seconds` of training, in [0, 1]; 0 without any limit."""
        share = step / self.total_steps if self.total_steps else 0.0
        if self.minutes:
            share = max(share, seconds / (60 * self.minutes))
        return min(1.0, share)

    def ended(self, step: int, seconds: float) -> str:
        """Why training is over after `step` steps and `seconds` of training, in words; "" while it is not."""
        if self.steps and step >= self.steps:
            return f"all {self.steps} steps done" if step == self.steps else f"run.steps is {self.steps}"
        if self.epochs and step >= self.epochs * self.steps_per_epoch:
            return f"all {self.epochs} epochs done"
        if self.minutes and seconds >= 60 * self.minutes:
            return f"{self.minutes:g} minutes of training done"
        return ""

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch that the step after `step` finished ones belongs to, and its place in it, both counted from 0."""
        return divmod(step, self.steps_per_epoch)


@dataclass(frozen=True)
class SaveSchedule:
    """After which steps an adapter and a state are saved."""

    config: SaveConfig
    steps_per_epoch: int

    def adapter_due(self, step: int, seconds_before: float, seconds: float) -> bool:
        """Whether an adapter is saved after `step`, which took training time from `seconds_before` to `seconds`."""
        c = self.config
        if c.every_steps and step % c.every_steps == 0:
            return True
        if c.every_epochs and step % (c.every_epochs * self.steps_per_epoch) == 0:
            return True
        if c.every_minutes:
            interval = 60 * c.every_minutes
            return seconds // interval > seconds_before // interval
        return False

    def passed(self, step: int, seconds: float) -> int:
        """How many checkpoints by steps, or by minutes where none are by steps, lie behind."""
        if self.config.every_steps:
            return step // self.config.every_steps
        return int(seconds // (60 * self.config.every_minutes)) if self.config.every_minutes else 0

    def state_due(self, step: int) -> bool:
        """Whether a resume state is saved after `step` although no adapter is."""
        return bool(self.config.state_every_steps) and step % self.config.state_every_steps == 0
