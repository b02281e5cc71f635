"""What a kohya file holds, taken key by key, with a record of what was not carried over and why."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from adapter_lab import jsonio
from adapter_lab.config_file import parse_toml
from adapter_lab.errors import ConfigError

# No setting of a training needs longer text, nor a larger whole number than TOML files hold.
LONGEST_TEXT = 100_000
LARGEST_INTEGER = 2**63 - 1


def shown(value: Any) -> str:
    """`value` as a sentence has room for it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, lists in lists without end
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class LeftOut:
    """A setting of the imported file that this configuration does not have, or has otherwise."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {shown(self.value)}: {self.reason}"


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
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ConfigError(
                f"{self.called(key)} holds {len(value):,} characters, which no setting needs: correct it."
            )
        return default if value is None or value == "" else value

    def boolean(self, key: str, default: bool = False) -> bool:
        """A truth value, also written as text ("True", "False"), as kohya_ss writes them."""
        return self._as(key, truth_of, default, "true or false")

    def number(self, key: str, default: float = 0.0, infinite: bool = False) -> float:
        """A number, also written as text; `infinite`: also "inf"."""
        return self._as(key, lambda value: _number(value, infinite), default, "a number")

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number, also written as text or as 4.0."""
        return self._as(key, _whole, default, "a whole number")

    def numbers(self, key: str, default: list[float], kind: str = "numbers such as 0.9,0.99") -> list[float]:
        """Numbers written as a list, a tuple in text, "0.9,0.99", or a single one; `kind`: what they must be."""
        return self._as(key, _numbers, default, kind)

    def text(self, key: str, default: str = "") -> str:
        """A text, or a number where a name of digits was written without quotes."""
        return self._as(key, _text, default, "text")

    def texts(self, key: str) -> list[str]:
        """A list of texts, or one alone."""
        return self._as(key, _texts, [], "a list of texts")

    def arguments(self, key: str) -> dict[str, Any]:
        """`["name=value", ...]` (or one text with spaces, or a table) as a dict."""
        value = self.take(key)
        if value is None or isinstance(value, dict):
            return dict(value or {})
        entries = _words(value) if isinstance(value, str) else value
        if not isinstance(entries, list):
            raise ConfigError(f"{self.called(key)} is {shown(value)}, but must be a list of name=value.")
        found = {}
        for entry in entries:
            name, equals, text = str(entry).partition("=")
            if not equals or not isinstance(entry, str):
                raise ConfigError(f"{self.called(key)} holds {shown(entry)}, which is not of the form name=value.")
            found[name.strip()] = _unquoted(text.strip())
        return found

    def _as(self, key: str, read: Any, default: Any, kind: str) -> Any:
        value = self.take(key)
        if value is None:
            return default
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{self.called(key)} is {shown(value)}, but must be {kind}: correct it there.") from None

    def note(self, key: str, value: Any, reason: str) -> None:
        """Record that `key` was not carried over as it is."""
        plain = isinstance(value, (bool, int, float, str)) and len(shown(value)) < 80
        self.left_out.append(LeftOut(self.called(key), value if plain or value is None else _short(value), reason))

    def leave(self, key: str, reason: str, silent: tuple[Any, ...] = ()) -> None:
        """Take `key` and record that it was not carried over, unless it asks for nothing, as `silent` values do."""
        value = self.take(key)
        if value is not None and value is not False and value != [] and value not in silent:
            self.note(key, value, reason)


@contextmanager
def about(file: str) -> Iterator[None]:
    """Inside, errors name `file`."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if file in message else f"{file}: {message}") from None


def _short(value: Any) -> Any:
    """A list of plain values as it is, anything else as text of bounded length."""
    plain = isinstance(value, list) and all(isinstance(entry, (bool, int, float, str)) for entry in value)
    return value if plain and len(shown(value)) < 80 else shown(value)


def truth_of(value: Any) -> bool:
    """The truth value in `value`: a bool, 0 or 1, or one of these as text."""
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(value)
    word = str(value).strip().lower()
    if word in ("true", "1", "1.0", "yes", "on"):
        return True
    if word in ("false", "0", "0.0", "no", "off", "none"):
        return False
    raise ValueError(value)


def _number(value: Any, infinite: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(value)
    number = float(value)
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise ValueError(value)
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    # Not through the float where it is a whole number already, since that has 53 bits.
    whole = value if isinstance(value, int) else int(number)
    if number != int(number) or abs(whole) > LARGEST_INTEGER:
        raise ValueError(value)
    return whole


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        value = [part for part in value.strip().strip("()[]").split(",") if part.strip()]
    return [_number(entry) for entry in value] if isinstance(value, (list, tuple)) else [_number(value)]


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(value)
    return str(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        if not all(isinstance(entry, str) for entry in value):
            raise TypeError(value)
        return list(value)
    return [_text(value)]


def tables_of(text: str, name: str) -> dict[str, Any]:
    """What a TOML file, or a JSON file (`name` says which), holds; raises ConfigError where it cannot be read."""
    text = text.lstrip("\ufeff")
    if name.lower().endswith((".yaml", ".yml")):
        raise ConfigError(f"{name} is YAML, which kohya's programs do not write; what is imported is TOML or JSON.")
    if not name.lower().endswith(".json"):
        return parse_toml(text, name)
    try:
        tables = jsonio.parsed(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not valid JSON: {error}; correct it there.") from None
    if not isinstance(tables, dict):
        raise ConfigError(f"{name} holds no settings, so there is nothing to import.")
    return tables


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training file without its sections, whose names mean nothing to sd-scripts."""
    settings: dict[str, Any] = {}
    for key, value in tables.items():
        settings.update(value if isinstance(value, dict) and key not in ARGUMENT_TABLES else {key: value})
    return settings


# Written as a table, these are settings of their own and no section.
ARGUMENT_TABLES = ("network_args", "optimizer_args", "lr_scheduler_args")


def _words(text: str) -> list[str]:
    """`text` at its blanks, but not at those within brackets or quotes, as in `betas=(0.9, 0.99)`."""
    words, word, closing = [], "", ""
    for part in re.split(r"""([\s()\[\]"'])""", text):
        if not closing and part.isspace():
            words.append(word)
            word = ""
            continue
        word += part
        if closing:
            closing = "" if part == closing else closing
        elif part and part in PAIRS:
            closing = PAIRS[part]
    return [word for word in [*words, word] if word]


PAIRS = {"(": ")", "[": "]", '"': '"', "'": "'"}


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
