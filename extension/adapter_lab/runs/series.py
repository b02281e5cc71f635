"""The numbers of every step of a run in columns, and the same drawn with fewer points."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapter_lab.jsonio import LARGEST
from adapter_lab.runs.events import Event

NAN = math.nan
# The smoothed loss follows about the last 1 / (1 - 0.98) = 50 steps, as many as the final loss is the mean of.
SMOOTHING = 0.98
# What numbers that are none, or not there, raise.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
PLAIN = ("loss", "seconds_per_step", "memory_bytes", "progress")


class Series:
    """Columns of numbers, one row per step, in the order of steps; a missing number is NaN.

    Names: loss, smooth (the loss smoothed), seconds_per_step, memory_bytes, progress, and for each trained part
    lr/unet, d/unet and so on, where lr is the effective rate.
    """

    def __init__(self) -> None:
        self.steps = array("q")
        self.columns: dict[str, array[float]] = {name: array("d") for name in (*PLAIN, "smooth")}
        self._plain = [(name, self.columns[name]) for name in PLAIN]
        self._rates: dict[tuple[str, str], array[float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def extend(self, events: Sequence[Event]) -> None:
        """Append "step" events; one that lacks what a step needs is passed over."""
        # A log has many thousands of steps that hold the same, and then a column at a time is quickest.
        columns = _columns_of(events)
        if columns is None:
            for event in events:
                with contextlib.suppress(*MALFORMED):
                    self._add(event)
            return
        count = len(self.steps)
        for (part, name), values in columns.rates.items():
            (self._rates.get((part, name)) or self._new(part, name)).extend(values)
        for (_, column), values in zip(self._plain, columns.plain):
            column.extend(values)
        smooth = self.columns["smooth"]
        for loss in columns.plain[0]:
            smooth.append(_smoothed(smooth[-1] if smooth else NAN, loss, len(smooth)))
        self.steps.extend(columns.steps)
        self._fill(count, len(events))

    def _add(self, event: Event) -> None:
        step, count = int(event["step"]), len(self.steps)
        if not 0 <= step < LARGEST:
            raise ValueError("a step has a number")
        rates = [
            (self._rates.get((part, name)) or self._new(part, name), value)
            for part, values in (event.get("rates") or {}).items()
            for name, value in values.items()
        ]
        numbers = [_number(event.get(name)) for name in PLAIN]
        for (_, column), number in zip(self._plain, numbers):
            column.append(number)
        smooth = self.columns["smooth"]
        smooth.append(_smoothed(smooth[-1] if smooth else NAN, numbers[0], count))
        for column, value in rates:
            column.append(_number(value))
        self.steps.append(step)
        self._fill(count, 1)

    def _fill(self, count: int, added: int) -> None:
        """NaN for rates that the last `added` steps do not have."""
        for column in self._rates.values():
            if len(column) == count:
                column.extend([NAN] * added)

    def _new(self, part: str, name: str) -> array[float]:
        """A column that begins now."""
        column = array("d", [NAN]) * len(self.steps)
        self._rates[part, name] = self.columns[f"{name}/{part}"] = column
        return column

    def restore(self, steps: np.ndarray[Any, Any], columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Take over the steps and columns of another series, in place of what is here; raises ValueError if no such."""
        if not set(self.columns) <= set(columns) or any(len(column) != len(steps) for column in columns.values()):
            raise ValueError("these are no columns of a series")
        self.steps = array("q", np.asarray(steps, np.int64).tobytes())
        self.columns = {name: array("d", np.asarray(column, float).tobytes()) for name, column in columns.items()}
        self._plain = [(name, self.columns[name]) for name in PLAIN]
        rates = (name.partition("/") for name in columns if "/" in name)
        self._rates = {(part, name): self.columns[f"{name}/{part}"] for name, _, part in rates}

    def drop_after(self, step: int) -> None:
        """Forget the steps after `step`, which a resumed run does again."""
        keep = len(self.steps)
        while keep and self.steps[keep - 1] > step:
            keep -= 1
        del self.steps[keep:]
        for column in self.columns.values():
            del column[keep:]

    def recent(self, name: str, count: int) -> list[float]:
        """The last `count` numbers of a column that are known."""
        return [value for value in self.columns.get(name, ())[-count:] if not math.isnan(value)]

    def drawn(self, points: int) -> dict[str, Any]:
        """Every column with at most `points` points: `steps` the last of each bin, and per column min, max and mean.

        Bins are a power of two of steps, so that only the last one changes while a run goes on. Without bins (`bin` 1)
        min and max are left out, being the mean. NaN is None.
        """
        size = 1
        while len(self.steps) > size * max(1, points):
            size *= 2
        starts = np.arange(0, len(self.steps), size)
        ends = np.minimum(starts + size, len(self.steps)) - 1
        columns = {name: _binned(np.array(column), starts, size) for name, column in self.columns.items()}
        return {"bin": size, "steps": np.array(self.steps)[ends].tolist(), "columns": columns}


@dataclass(frozen=True)
class _Columns:
    steps: array[int]
    plain: list[array[float]]
    rates: dict[tuple[str, str], array[float]]


def _columns_of(events: Sequence[Event]) -> _Columns | None:
    """The numbers of steps that all hold the same ones; None where they do not."""
    try:
        rates = [event.get("rates") or {} for event in events]
        names = {part: tuple(values) for part, values in rates[0].items()}
        if any(of.keys() != names.keys() for of in rates):
            return None
        columns: dict[tuple[str, str], array[float]] = {}
        for part, own in names.items():
            values = [of[part] for of in rates]
            if any(len(value) != len(own) for value in values):
                return None
            columns |= {(part, name): _numbers([value[name] for value in values]) for name in own}
        plain = [_numbers([event.get(name) for event in events]) for name in PLAIN]
        return _Columns(array("q", [event["step"] for event in events]), plain, columns)
    except MALFORMED:
        return None


def _numbers(values: list[Any]) -> array[float]:
    """A column, NaN for what is not finite; raises TypeError for what is neither a number nor None."""
    try:
        column = array("d", values)
    except TypeError:
        column = array("d", [NAN if value is None else value for value in values])
    total = sum(column)
    return column if total - total == 0 else array("d", [v if math.isfinite(v) else NAN for v in column])


def _smoothed(before: float, loss: float, count: int) -> float:
    """An exponential mean, plain over the first steps; a step without a loss changes nothing."""
    if loss != loss or before != before:  # NaN; math.isnan would cost more than all the rest here
        return before if loss != loss else loss
    return before + max(1 / (count + 1), 1 - SMOOTHING) * (loss - before)


def _binned(values: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], size: int) -> dict[str, list[float | None]]:
    if not len(values):
        return {"mean": []} if size == 1 else {"mean": [], "min": [], "max": []}
    if size == 1:
        return {"mean": _plain(values)}
    known = ~np.isnan(values)
    count = np.add.reduceat(known, starts, dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(known, values, 0.0), starts) / count
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return {"mean": _plain(mean), "min": _plain(low), "max": _plain(high)}


def _plain(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _number(value: Any) -> float:
    number = value if value.__class__ is float else float(value) if isinstance(value, (int, float)) else NAN
    return number if math.isfinite(number) else NAN
