"""The optimisers of the package pytorch-optimizer that can train adapters, as `benchmarks/optimizers.py` measured them.

The package itself is imported only where a run uses one of them: what is offered, how they are called and what they
keep is in `optimizers.json`.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

# Terms of the bytes that are kept for a matrix with these sides, see `matrix_bytes`.
TERMS = {
    "values": lambda rows, columns: rows * columns,
    "sides": lambda rows, columns: rows + columns,
    "squares": lambda rows, columns: rows**2 + columns**2,
    "smaller_square": lambda rows, columns: min(rows, columns) ** 2,
    "each": lambda rows, columns: 1,
}
# Given by settings of their own.
ELSEWHERE = {"lr": "optimizer.lr", "params": "the adapter", "gradient_clipping": "optimizer.clip_grad_norm"}


@cache
def _table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("optimizers.json").read_text(encoding="utf-8"))


# The version of the package that was measured.
VERSION: str = _table()["version"]
NAMES: tuple[str, ...] = tuple(_table()["optimizers"])
# Name -> why it cannot train adapters.
REFUSED: dict[str, str] = _table()["refused"]
# Those that save an average of the weights, and of them those that need no schedule.
AVERAGING = tuple(name for name in NAMES if _table()["optimizers"][name]["averages"])
SCHEDULE_FREE = tuple(name for name in AVERAGING if name.startswith("schedulefree"))


def usual_rate(name: str) -> float:
    """The learning rate where none is given."""
    return _table()["optimizers"][name]["rate"]


def needs_marks(name: str) -> bool:
    """Whether it must be told which parameters are matrices."""
    return _table()["optimizers"][name]["marks"]


def state_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes it keeps for an fp32 parameter of this shape."""
    state, values = _table()["optimizers"][name]["state"], math.prod(shape)
    if len(shape) > 2:
        return math.ceil(state["kernel"] * values)
    factors, rows, columns = (state["matrix"], *shape) if len(shape) == 2 else (state["vector"], 1, values)
    return math.ceil(sum(factor * TERMS[term](rows, columns) for term, factor in factors.items()))


def arguments(name: str, given: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of arguments given as "name=value", and a sentence for each that cannot be used."""
    known, values, wrong = _table()["optimizers"][name]["arguments"], {}, []
    for entry in given:
        argument, equals, text = (part.strip() for part in entry.partition("="))
        near = difflib.get_close_matches(argument, known, n=1)
        if not equals or not argument:
            wrong.append(f"{entry!r} is not of the form name=value.")
        elif argument in ELSEWHERE:
            wrong.append(f"{argument} is given by {ELSEWHERE[argument]}: remove it here.")
        elif argument not in known:
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}."
            wrong.append(f"{name} has no argument {argument}{hint}")
        elif argument in values:
            wrong.append(f"{argument} is given twice.")
        else:
            value = _literal(text)
            if expected := _misfit(value, _literal(known[argument])):
                wrong.append(f"{argument} must be {expected}, but is {text!r}.")
            values[argument] = value
    return values, wrong


def _literal(text: str) -> Any:
    """A value as Python or TOML writes it; anything else is a word."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return tuple(value) if isinstance(value, list) else value


def _misfit(value: Any, default: Any) -> str:
    """What a value should be, judged by the default; "" where it fits or the default does not say."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, (int, float)):
        return "" if _is_number(value) else "a number"
    if isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default) and all(map(_is_number, value))
        return "" if fits else f"{len(default)} numbers such as {','.join(map(str, default))}"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a word"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
