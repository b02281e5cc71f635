"""Configurations as TOML: read, written back byte for byte, and changed by `section.name=value`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from adapter_lab import files, jsonio, upgrades
from adapter_lab.config import (
    TrainConfig,
    default_of,
    number_of,
    sections,
    settings,
    shown_choices,
    shown_optimizers,
    too_long,
    type_of,
    words_of,
)
from adapter_lab.errors import SHOWN, ConfigError, shown
from adapter_lab.jsonio import LARGEST
from adapter_lab.option import spelled

HEADER = "Adapter Lab training configuration"


def parse_toml(text: str, where: str = "The text") -> dict[str, Any]:
    """TOML as nested dicts; raises ConfigError with `where`, line and column of a mistake."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10, where pip brings the same parser
        try:
            import tomli as tomllib  # type: ignore[no-redef]
        except ModuleNotFoundError:
            import pip._vendor.tomli as tomllib  # type: ignore[no-redef]
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where} is not valid TOML: it is nested too deeply; correct it there.") from None
    except ValueError as error:
        mistake = "a number has thousands of digits" if "integer string conversion" in str(error) else str(error)
        raise ConfigError(f"{where} is not valid TOML: {mistake}; correct it there.") from error


def read_text(path: Path) -> str:
    """The text of a file (UTF-8, with or without byte-order mark)."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8.") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, with any line ends."""
    return parse_toml(read_text(path), str(path))


def load(path: str | os.PathLike[str], into: TrainConfig | None = None) -> TrainConfig:
    """The configuration in a TOML file; settings it does not name keep their default, or their value in `into`.

    Unknown settings and values of a wrong type raise ConfigError, all of them at once. `into` is not changed.
    """
    return loads(read_text(Path(path)), str(path), into)


def loads(text: str, where: str = "The configuration", into: TrainConfig | None = None) -> TrainConfig:
    """As `load`, of a text; `where` names it in messages."""
    number, tables = upgrades.format_of(text, HEADER, where), parse_toml(text, where)
    return from_tables(upgrades.in_words(tables, number), where, into)


def load_run(path: Path) -> tuple[TrainConfig, list[str]]:
    """The configuration of a run folder, and a sentence on each setting that this release does not know.

    Such settings, of a newer release, are left where they are (`change_lines`) instead of being refused.
    """
    text, sentences = read_text(path), []
    number, tables = upgrades.format_of(text, HEADER, str(path)), parse_toml(text, str(path))
    owners = dict(sections())
    for section, table in list(tables.items()):
        known = _names(owners[section]) if section in owners else []
        for name in [name for name in table if spelled(name) not in known] if isinstance(table, dict) else []:
            sentences.append(
                f"{path} has {section}.{name}, which this release does not know: it is kept, but not used."
            )
            del table[name]
        if section not in owners:
            del tables[section]
    return from_tables(upgrades.in_words(tables, number), str(path)), sentences


def change_lines(path: Path, config: TrainConfig, changed: Iterable[str]) -> None:
    """Write the values that `config` has for the settings `changed` ("section.name") into a file, and nothing else."""
    lines, owners = read_text(path).split("\n"), dict(sections())
    for setting in changed:
        section, name = setting.split(".")
        line = f"{name} = {literal(getattr(getattr(config, section), name), type_of(owners[section], name))}"
        header = next((i for i, text in enumerate(lines) if text.strip() == f"[{section}]"), None)
        if header is None:
            lines += ["", f"[{section}]", line]
            continue
        end = next((i for i in range(header + 1, len(lines)) if lines[i].startswith("[")), len(lines))
        at = next((i for i in range(header + 1, end) if lines[i].partition("=")[0].strip() == name), None)
        if at is None:
            lines.insert(header + 1, line)
        else:
            lines[at] = line
    files.write_text(path, "\n".join(lines))


def from_tables(tables: Mapping[str, Any], where: str, into: TrainConfig | None = None) -> TrainConfig:
    """A configuration from nested tables, section -> name -> value."""
    config = copy.deepcopy(into) if into is not None else TrainConfig()
    owners, problems = dict(sections()), []
    for section, table in tables.items():
        if section not in owners:
            problems.append(_unknown(section, section))
        elif not isinstance(table, dict):
            problems.append(f"{section} is a section: write its settings below [{section}].")
        else:
            values = {entry.name: getattr(getattr(config, section), entry.name) for entry in _fields(owners[section])}
            values.update(table_values(table, owners[section], section, problems))
            setattr(config, section, owners[section](**values))
    raise_all(where, problems)
    return config


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """`section.name=value` texts as {"section.name": value}, each of its setting's type.

    Lists are TOML or JSON, as in `preview.prompts=["a", "b"]`. Raises ConfigError with every change that is not
    understood.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    owners = dict(sections())
    for change in changes:
        path, equals, text = (part.strip() for part in change.partition("="))
        path = spelled(path)
        section, dot, name = path.partition(".")
        if not equals or not dot:
            problems.append(f"{shown(change)} is not of the form section.name=value.")
        elif section not in owners or name not in _names(owners[section]):
            problems.append(_unknown(path, name))
        else:
            kind = type_of(owners[section], name)
            try:
                values[path] = _converted(parse_value(text, kind), kind, path, problems)
            except ValueError as error:
                problems.append(f"{path} must be {error}, but is {shown(text)}.")
    raise_all("--set", problems)
    return values


def parse_value(text: str, kind: Any) -> Any:
    """A value typed by a person as the type of its setting; raises ValueError saying what is expected."""
    if kind is str:
        return text
    text = text.strip()
    words, kind = words_of(kind), number_of(kind)
    if text.lower() in words:
        return text.lower()
    if kind is bool:
        if text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
        raise ValueError("true or false")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(" or ".join(("a whole number" if kind is int else "a number", *words))) from None
    (item,) = get_args(kind)
    if text.startswith(("[", "{")):
        return _inline(text)
    if item is str:
        return [text] if text else []
    if item is float:
        return [parse_value(part, float) for part in text.split(",") if part.strip()]
    raise ValueError('a list of tables such as [{match = "lora_te*", dim = 8}]')


BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def _inline(text: str) -> Any:
    try:
        value = parse_toml(f"v = {text}")["v"]
    except ConfigError:
        try:
            value = jsonio.parsed(text)
        except ValueError:
            raise ValueError("a list in TOML or JSON") from None
    return value if isinstance(value, list) else [value]


# Tables to dataclasses


def table_values(table: Mapping[str, Any], owner: type, where: str, problems: list[str]) -> dict[str, Any]:
    """The settings of a table as `owner` has them; what is wrong becomes sentences in `problems`, with `where`."""
    known, values = _names(owner), {}
    for written, value in table.items():
        name = written if written in known else spelled(written)
        if name not in known:
            problems.append(_unknown(f"{where}.{name}", name, known if "[" in where else ()))
        else:
            values[name] = _converted(value, type_of(owner, name), f"{where}.{name}", problems)
    return values


def _converted(value: Any, kind: Any, where: str, problems: list[str]) -> Any:
    words, kind = words_of(kind), number_of(kind)
    if value in words and isinstance(value, str):
        return value
    if type(value) is int and not -LARGEST < value < LARGEST:
        problems.append(f"{where} must lie between -2^63 and 2^63, but is {shown(value)}.")
        return 0
    if too_long(value):
        problems.append(f"{where} {too_long(value)}")
        return [] if isinstance(value, list) else ""
    if kind is float and type(value) is int:
        return float(value)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if not isinstance(value, list):
            problems.append(f"{where} must be a list, but is {shown(value)}.")
            return []
        return [_converted(entry, item, f"{where}[{index}]", problems) for index, entry in enumerate(value)]
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        if not isinstance(value, dict):
            problems.append(f"{where} must be a table such as {{match = ...}}, but is {shown(value)}.")
            return kind()  # type: ignore[operator]
        return kind(**table_values(value, kind, where, problems))  # type: ignore[operator,arg-type]
    if type(value) is not kind:
        wanted = " or ".join((KIND_NAMES[kind], *(_quoted(word) for word in words)))
        problems.append(f"{where} must be {wanted}, but is {shown(value)}.")
        return kind()
    return value


KIND_NAMES = {str: 'text in quotes ("...")', int: "a whole number", float: "a number", bool: "true or false"}


def _fields(owner: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(owner)


def _names(owner: type) -> list[str]:
    return [entry.name for entry in _fields(owner)]


def _unknown(written: str, name: str, siblings: Iterable[str] = ()) -> str:
    """A sentence on an unknown setting, with the known one that it most resembles."""
    written, name = written[:SHOWN], name[:SHOWN]
    paths = [f"{section}.{entry}" for section, entry, _ in settings()]
    same_name = [path for path in paths if path.split(".")[1] == name]
    near = difflib.get_close_matches(name, list(siblings), n=1) if siblings else same_name
    near = near or difflib.get_close_matches(written, paths, n=1, cutoff=0.7)
    near = near or [path for match in _close(name) for path in paths if path.split(".")[1] == match]
    return f"There is no setting {written}" + (f"; did you mean {near[0]}?" if near else ".")


def _close(name: str) -> list[str]:
    return difflib.get_close_matches(name, [entry for _, entry, _ in settings()], n=1, cutoff=0.7)


def raise_all(where: str, problems: list[str]) -> None:
    """Raise ConfigError with all `problems`, if there are any."""
    if len(problems) == 1:
        raise ConfigError(f"{where}: {problems[0]}")
    if problems:
        raise ConfigError(f"{where}:\n" + "\n".join(f"- {problem}" for problem in problems))


# Writing


def dumps(config: TrainConfig, only_changed: bool = False) -> str:
    """The configuration as TOML: every setting with its meaning, or only those that differ from their default.

    The text depends on the values alone, and `loads(dumps(c)) == c`.
    """
    blocks = [upgrades.first_line(HEADER)]
    for section, owner in sections():
        table = getattr(config, section)
        block = list(_section_lines(section, owner, table, only_changed))
        if block:
            blocks.append("\n".join(block) + "\n")
    return "\n".join(blocks)


def write(config: TrainConfig, path: str | os.PathLike[str], only_changed: bool = False) -> None:
    """Replace a file by `dumps(config)`; raises WriteError where that fails."""
    files.write_text(Path(path), dumps(config, only_changed))


def _section_lines(section: str, owner: type, table: Any, only_changed: bool) -> Iterator[str]:
    plain, tables = [], []
    for entry in _fields(owner):
        value, kind = getattr(table, entry.name), type_of(owner, entry.name)
        if only_changed and value == default_of(entry):
            continue
        # Tables of a list come after the section's own settings, or those would become part of the last table.
        if get_args(kind) and dataclasses.is_dataclass(get_args(kind)[0]):
            tables.append((entry, value))
            continue
        if not only_changed:
            plain += ["", *_comment(entry.metadata["help"]), *_comment(remark(entry))]
        plain.append(f"{entry.name} = {literal(value, kind)}")
    if plain or tables:
        if not only_changed:
            yield f"# {owner.__doc__}"
        yield f"[{section}]"
        yield from plain
    for entry, items in tables:
        if not only_changed:
            yield from ("", *_comment(entry.metadata["help"]))
            # An empty list written out would forbid adding the first table below it.
            yield from [] if items else _comment(f"Each begins with [[{section}.{entry.name}]].")
        for item in items:
            yield ""
            yield f"[[{section}.{entry.name}]]"
            for field in _fields(item):
                value = getattr(item, field.name)
                if value != default_of(field):
                    yield f"{field.name} = {literal(value, type_of(type(item), field.name))}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")


def remark(entry: dataclasses.Field[Any]) -> str:
    """What else a person should know about a setting: choices, range, unit, default, who uses it."""
    meta, parts = entry.metadata, []
    if meta["choices"]:
        parts.append("one of " + ", ".join(filter(None, shown_choices(entry))))
    parts.append(range_of(entry))
    if meta["algorithms"]:
        parts.append("for " + ", ".join(meta["algorithms"]))
    if meta["optimizers"]:
        parts.append("for " + ", ".join(shown_optimizers(entry)))
    for condition in meta["needs"]:
        parts.append("needs " + condition)
    return "; ".join(part for part in parts if part)


def range_of(entry: dataclasses.Field[Any]) -> str:
    """The allowed range with its unit: "0 to 1", "at least 8 px", or ""."""
    low, high, unit = (entry.metadata[key] for key in ("minimum", "maximum", "unit"))
    if low is None and high is None:
        return unit and f"in {unit}"
    text = (
        f"{low:g} to {high:g}"
        if None not in (low, high)
        else f"at least {low:g}"
        if high is None
        else f"at most {high:g}"
    )
    return f"{text} {unit}".strip()


def literal(value: Any, kind: Any) -> str:
    """A value of a setting as TOML."""
    kind = str if value in words_of(kind) else number_of(kind)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return "[" + ", ".join(literal(entry, item) for entry in value) + "]"
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return repr(float(value))
    if kind is int:
        return str(int(value))
    return _quoted(value)


def _quoted(text: str) -> str:
    """A TOML basic string: quotes, backslashes and control characters escaped, all else as it is."""
    escaped = []
    for letter in text:
        if 0xD800 <= ord(letter) <= 0xDFFF:
            raise ConfigError(f"{shown(text)} holds half of a character, which no file can hold; type the text again.")
        short = SHORT_ESCAPES.get(letter)
        control = ord(letter) < 0x20 or ord(letter) == 0x7F
        escaped.append(short or (f"\\u{ord(letter):04X}" if control else letter))
    return '"' + "".join(escaped) + '"'


SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
