"""What a request brings, checked against what its route takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapter_lab.api.errors import BadRequest
from adapter_lab.errors import shown
from adapter_lab.jsonio import LARGEST, parsed
from adapter_lab.study.spec.definition import MOST_VARIANTS

REQUIRED: Any = object()
MOST_SETTINGS = 300  # there are half as many
LARGEST_BODY = 8 * 2**20  # a kohya file has a few KB, settings with hundreds of prompts still below 1 MB


@dataclass(frozen=True)
class Parameter:
    """One value that a route takes, in its query or its JSON body. `kind`: a key of KINDS.

    `minimum` and `maximum` hold for a number, and for each of a list.
    """

    name: str
    kind: str
    about: str
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass
class Call:
    """A request that has been let in: the parts of its path, its query and its body, all of their right types."""

    path: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    # Whether it came from beyond this machine, or may have: paths then stay inside the allowed folders.
    public: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def _is_files(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(file, dict) and set(file) == {"name", "content"} and all(isinstance(v, str) for v in file.values())
        for file in value
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)


def _are_variants(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(variant, dict)
        and set(variant) == {"name", "settings"}
        and isinstance(variant["name"], str)
        and isinstance(variant["settings"], dict)
        and len(variant["settings"]) <= MOST_SETTINGS
        for variant in value
    )


@dataclass(frozen=True)
class ValueType:
    """What values of a kind are: a test of a JSON value, what it is called, its JSON schema, and how long it may be."""

    fits: Callable[[Any], bool]
    called: str
    schema: Mapping[str, Any]
    most: int = 0  # letters of a text, entries of a list or an object

    def limited(self) -> dict[str, Any]:
        """The schema with the limit."""
        words = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
        return {**self.schema, **({words[self.schema["type"]]: self.most} if self.most else {})}


def _object(**properties: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


TEXTS = {"type": "array", "items": {"type": "string"}}
KINDS: dict[str, ValueType] = {
    "text": ValueType(_is_text, "text", {"type": "string"}, 10_000),
    "path": ValueType(_is_text, "a path", {"type": "string"}, 4096),
    "whole number": ValueType(_is_whole, "a whole number", {"type": "integer"}),
    "number": ValueType(_is_number, "a number", {"type": "number"}),
    "on or off": ValueType(lambda value: isinstance(value, bool), "true or false", {"type": "boolean"}),
    "whole numbers": ValueType(
        _are_numbers, "a list of whole numbers", {"type": "array", "items": {"type": "integer"}}, 1000
    ),
    "texts": ValueType(_are_texts, "a list of texts", TEXTS, 1000),
    "paths": ValueType(_are_texts, "a list of paths", TEXTS, 1000),
    "settings": ValueType(
        lambda value: isinstance(value, dict),
        'an object such as {"network.dim": 16}',
        {"type": "object", "additionalProperties": True},
        MOST_SETTINGS,
    ),
    "variants": ValueType(
        _are_variants,
        'a list of objects {"name": text, "settings": {"network.dim": 16}}',
        {"type": "array", "items": _object(name="string", settings="object")},
        MOST_VARIANTS,
    ),
    "files": ValueType(
        _is_files,
        'a list of objects {"name": text, "content": text}',
        {"type": "array", "items": _object(name="string", content="string")},
        20,
    ),
}


def checked(given: Mapping[str, Any], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The values of `parameters` with defaults; raises BadRequest for what is missing, unknown or of a wrong type."""
    known = {parameter.name: parameter for parameter in parameters}
    unknown = [name for name in given if name not in known]
    if unknown:
        takes = ", ".join(known) or "nothing"
        raise BadRequest(f"This request takes no {', '.join(map(shown, unknown[:10]))}; it takes {takes}.")
    return {name: _value(given, parameter) for name, parameter in known.items()}


def _value(given: Mapping[str, Any], parameter: Parameter) -> Any:
    name, value = parameter.name, given.get(parameter.name)
    if value is None:  # null counts as absent
        if parameter.default is REQUIRED:
            raise BadRequest(f"{name} is missing: {parameter.about}")
        return parameter.default
    kind = KINDS[parameter.kind]
    if kind.most and isinstance(value, (str, list, dict)) and len(value) > kind.most:
        what = "letters" if isinstance(value, str) else "entries"
        raise BadRequest(f"{name} has {len(value)} {what}, but may have {kind.most}.")
    if not kind.fits(value):
        raise BadRequest(f"{name} must be {kind.called}, but is {shown(value)}.")
    if parameter.choices and value not in parameter.choices:
        raise BadRequest(f"{name} is {shown(value)}, but must be one of {', '.join(parameter.choices)}.")
    low, high = parameter.minimum, parameter.maximum
    for number in value if isinstance(value, list) else [value]:
        if (low is not None and number < low) or (high is not None and number > high):
            raise BadRequest(f"{name} is {shown(number)}, but must be from {low} to {high}.")
    return value


def from_query(query: Mapping[str, str], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """A query's texts as values of their parameters' kinds; what is none stays text, for `checked` to refuse."""
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    return {name: _from_text(text, kinds.get(name, "text")) for name, text in query.items()}


def _from_text(text: str, kind: str) -> Any:
    if kind == "on or off":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind == "whole number" and text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 20:
        return int(text)
    return text


def body_of(content: bytes) -> dict[str, Any]:
    """A JSON body; an empty one is {}. Raises BadRequest for what is no JSON object, and for half characters."""
    if not content.strip():
        return {}
    try:
        value = parsed(content.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise BadRequest("The body holds half of a character, which no file can hold; send UTF-8.") from None
    except RecursionError:
        raise BadRequest("The body is not JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object, { ... }.")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")
