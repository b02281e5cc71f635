"""What a kohya file holds, taken key by key, with a record of what was not carried over and why."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapter_lab.config_file import parse_toml
from adapter_lab.errors import ConfigError


@dataclass(frozen=True)
class LeftOut:
    """A setting of the imported file that this configuration does not have, or has otherwise."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.reason}"


@dataclass
class Keys:
    """The settings of one table; `take` removes what it reads, so that the rest can be listed."""

    values: dict[str, Any]
    left_out: list[LeftOut] = field(default_factory=list)
    name: str = ""
    spelled: Mapping[str, str] = field(default_factory=dict)  # names as the file has them, where it has others

    def table(self, values: dict[str, Any], name: str) -> Keys:
        """A table within this one; what is not carried over of it comes into the same list."""
        return Keys(values, self.left_out, f"{self.name}{name}.", self.spelled)

    def called(self, key: str) -> str:
        """`key` as a person finds it in the file."""
        return self.spelled.get(f"{self.name}{key}", f"{self.name}{key}")

    def take(self, key: str, default: Any = None) -> Any:
        """The value of `key`, removed; an empty text counts as absent, as in files written by the kohya_ss GUI."""
        value = self.values.pop(key, None)
        return default if value is None or value == "" else value

    def boolean(self, key: str, default: bool = False) -> bool:
        """A truth value, also written as text ("True", "False"), as kohya_ss writes them."""
        return self._as(key, truth_of, default)

    def number(self, key: str, default: float = 0.0) -> float:
        """A number, also written as text."""
        return self._as(key, float, default)

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number, also written as text or as 4.0."""
        return self._as(key, _whole, default)

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        return str(self.take(key, default))

    def _as(self, key: str, read: Any, default: Any) -> Any:
        value = self.take(key)
        if value is None:
            return default
        try:
            return read(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{self.called(key)} is {value!r}, which is not of the kind that option has.") from None

    def note(self, key: str, value: Any, reason: str) -> None:
        """Record that `key` was not carried over as it is."""
        self.left_out.append(LeftOut(self.called(key), value, reason))

    def leave(self, key: str, reason: str) -> None:
        """Take `key` and record, where it asks for anything, that it was not carried over."""
        value = self.take(key)
        if value is not None and value is not False and value != []:
            self.note(key, value, reason)


def truth_of(value: Any) -> bool:
    """The truth value in `value`: a bool, 0 or 1, or one of these as text."""
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", "none"):
        return False
    raise ValueError(value)


def _whole(value: Any) -> int:
    number = float(value)
    if number != int(number):
        raise ValueError(value)
    return int(number)


def tables_of(text: str, name: str) -> dict[str, Any]:
    """What a TOML file, or a JSON file (`name` says which), holds; raises ConfigError where it cannot be read."""
    text = text.lstrip("\ufeff")
    if not name.lower().endswith(".json"):
        return parse_toml(text, name)
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid JSON: {error}; correct it there.") from None
    if not isinstance(tables, dict):
        raise ConfigError(f"{name} holds no settings, so there is nothing to import.")
    return tables


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training file without its sections, whose names mean nothing to sd-scripts."""
    settings: dict[str, Any] = {}
    for key, value in tables.items():
        settings.update(value if isinstance(value, dict) else {key: value})
    return settings


def arguments(value: Any, key: str) -> dict[str, Any]:
    """`["name=value", ...]` (or one text with spaces, or a table) as a dict of texts."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return dict(value)
    entries: Iterable[str] = value.split() if isinstance(value, str) else value
    found = {}
    for entry in entries:
        name, equals, text = str(entry).partition("=")
        if not equals:
            raise ConfigError(f"{key} holds {entry!r}, which is not of the form name=value.")
        found[name.strip()] = _unquoted(text.strip())
    return found


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def numbers(value: Any) -> list[float]:
    """Numbers written as a list, a tuple in text, "0.9,0.99", or a single one."""
    if isinstance(value, str):
        value = ast.literal_eval(value.strip() or "[]")
    return [float(entry) for entry in value] if isinstance(value, (list, tuple)) else [float(value)]
