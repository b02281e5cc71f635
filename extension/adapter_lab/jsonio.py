"""JSON that anybody may have written: parsed without surprises, and of the types that are expected, or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from adapter_lab.errors import shown

MOST_DIGITS = 1000  # of a whole number; no setting comes near it
LARGEST = 2**63  # what a column of numbers, or another program, can still hold


def read(path: Path) -> Any:
    """The value in a JSON file; raises OSError, and ValueError for all that is none."""
    return parsed(path.read_bytes())


def parsed(text: str | bytes, **hooks: Any) -> Any:
    """A JSON text's value; raises ValueError, also for nesting and numbers that are larger than can be read.

    `hooks`: those of `json.loads`.
    """
    try:
        return json.loads(text, **{"parse_int": _integer, **hooks})
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def table(value: Any) -> dict[str, Any]:
    """A value that must be a JSON object; raises ValueError for another one."""
    if not isinstance(value, dict):
        raise ValueError("it is no table")
    return value


def typed(kind: Any, value: Any, where: str = "it") -> Any:
    """A JSON value as `kind`: a plain type, a list, dict or tuple of such, a union, or a dataclass of such.

    Numbers must be finite, and whole ones below 2^63. Raises ValueError naming what is another.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    if origin in (Union, UnionType):
        return _one_of(arguments, value, where)
    if origin in (list, tuple, dict, Mapping):
        return _container(origin, arguments, value, where)
    if not _FITS.get(kind, lambda _: True)(value):
        raise ValueError(f"{where} is {shown(value)}")
    return float(value) if kind is float else value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    given, hints = table(value), _hints(kind)
    unknown = given.keys() - hints.keys()
    if unknown:
        raise ValueError(f"{where} holds {shown(min(unknown))}")
    try:
        return kind(**{name: typed(hints[name], entry, name) for name, entry in given.items()})
    except TypeError as error:  # one is missing
        raise ValueError(str(error)) from None


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return typed(kind, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is {shown(value)}")


def _container(origin: Any, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if origin in (dict, Mapping):
        return {name: typed(kinds[1], entry, f"{where}.{name}") for name, entry in table(value).items()}
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is {shown(value)}")
    if origin is tuple and kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise ValueError(f"{where} has {len(value)} entries")
        return tuple(typed(of, entry, where) for of, entry in zip(kinds, value))
    return origin(typed(kinds[0], entry, where) for entry in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST < value < LARGEST and math.isfinite(value)


# Other kinds, such as Any, take every value.
_FITS: dict[Any, Any] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    int: lambda value: type(value) is int and -LARGEST < value < LARGEST,
    float: _is_number,
    NoneType: lambda value: value is None,
}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
