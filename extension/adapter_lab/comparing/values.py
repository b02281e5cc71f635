"""What may be written on an axis: steps, ranges of steps, strengths, and the words none, last, best and all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from adapter_lab.adapters.library import Run
from adapter_lab.errors import AdapterLabError, shown

NONE, LAST, BEST, ALL = "none", "last", "best", "all"
NUMBER = r"(\d{1,12}(?:\.\d{1,12})?)"
COUNTED = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}\s*\[\s*(\d{{1,12}})\s*\]")  # 0-8000 [9]: so many, evenly spread
STEPPED = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}\s*\(\s*\+?\s*{NUMBER}\s*\)")  # 0-8000 (+1000)
BETWEEN = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}")
MOST = 1000  # values of one axis
Value = TypeVar("Value", str, float)


def step_values(written: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Steps as written, one by one: "4000", "50%" (of what a run was trained), "none", "last", "best".

    runs: those whose saved steps "all" and ranges without a count mean. Raises AdapterLabError for anything else.
    """
    found: list[str] = []
    for text in (value.strip().lower() for value in written):
        if text:
            found += _step_values(text, runs)
    return _checked(found, "step")


def _step_values(text: str, runs: Sequence[Run]) -> list[str]:
    if text in (NONE, LAST, BEST) or re.fullmatch(r"\d{1,3}(\.\d+)?%|\d{1,9}", text):
        return [text if not text.isdigit() else str(int(text))]
    if text == ALL:
        return [str(position) for position in saved_positions(runs)]
    spread = _spread(text)
    if spread is not None:
        return [str(round(value)) for value in spread]
    between = BETWEEN.fullmatch(text)
    if between:
        low, high = sorted(float(number) for number in between.groups())
        return [str(position) for position in saved_positions(runs) if low <= position <= high]
    raise AdapterLabError(
        f"{shown(text)} is no step; write numbers (4000), shares (50%), ranges (0-8000 [9], 0-8000 (+1000), "
        "2000-6000), last, best, all or none."
    )


def strength_values(written: Iterable[str]) -> list[float]:
    """Strengths as written, ranges spread out. Raises AdapterLabError for what is no number."""
    found: list[float] = []
    for text in (value.strip() for value in written):
        spread = _spread(text) if text else []
        try:
            values = [float(text)] if spread is None else spread
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            raise AdapterLabError(f"{shown(text)} is no strength; write numbers (0.8) or ranges (0-1 [5]).")
        found += values
    return _checked([round(value, 6) for value in found], "strength")


def saved_positions(runs: Iterable[Run]) -> list[int]:
    """The steps after which files of these runs were saved, ascending; epochs of runs that know no steps."""
    return sorted({e.lineage.position for run in runs for e in run.entries if e.lineage.position is not None})


def _spread(text: str) -> list[float] | None:
    """A range with a count or a step as its values; None if it is none."""
    counted, stepped = COUNTED.fullmatch(text), STEPPED.fullmatch(text)
    if counted:
        low, high, count = float(counted[1]), float(counted[2]), int(counted[3])
        _check_count(count, text)
        return [low] if count == 1 else [low + (high - low) * i / (count - 1) for i in range(count)]
    if stepped:
        low, high, step = (float(number) for number in stepped.groups())
        if step <= 0:
            raise AdapterLabError(f"{shown(text)} would never end: its step must be more than 0.")
        _check_count(int((high - low) / step) + 1, text)
        return [low + step * i for i in range(int((high - low) / step + 1e-9) + 1)]
    return None


def _check_count(count: int, text: str) -> None:
    if not 1 <= count <= MOST:
        raise AdapterLabError(f"{shown(text)} stands for {count} values; an axis takes 1 to {MOST}.")


def _checked(found: list[Value], what: str) -> list[Value]:
    """The values without repetitions; raises AdapterLabError if there are none."""
    if not found:
        raise AdapterLabError(f"The axis has no {what} on it: nothing was written, or no file was saved there.")
    return list(dict.fromkeys(found))
