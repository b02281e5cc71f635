"""References made from the code: every setting (`docs/configuration.md`, a JSON schema), every route (`docs/api.md`),
every option of kohya's (`docs/importing.md`), and the README's table of adapter types.

python -m adapter_lab.docs            write them
python -m adapter_lab.docs --check    fail when they are not what the code says
python -m adapter_lab.docs --schema   print the JSON schema of a configuration
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.api import reference
from adapter_lab.config import (
    RuleConfig,
    SourceConfig,
    default_of,
    flag_of,
    number_of,
    sections,
    shown_choices,
    shown_optimizers,
    type_of,
    words_of,
)
from adapter_lab.config_file import literal, range_of
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.table import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "configuration.md"
API_PAGE = REPOSITORY / "docs" / "api.md"
README = REPOSITORY / "README.md"
# The README's table lies between these two lines.
TYPES_BEGIN = "<!-- Made from extension/adapter_lab/kinds.py by `python -m adapter_lab.docs`; change it there. -->\n"
MADE_END = "<!-- Here the made part ends. -->\n"
IMPORT_PAGE = REPOSITORY / "docs" / "importing.md"
OPTIONS_BEGIN = (
    "<!-- Made from extension/adapter_lab/kohya/table.py by `python -m adapter_lab.docs`; change it there. -->\n"
)

INTRODUCTION = """\
# Configuration

<!-- Made from extension/adapter_lab/config.py by `python -m adapter_lab.docs`; change it there. -->

Every setting of a training run. A run folder's `config.toml` holds all of them and can be given back with
`adapter-lab train --config config.toml`. Each can be set in three ways, the later ones winning:

- in a TOML file: `[network]`, then `dim = 32`;
- as `--set network.dim=32`, for `train`, `estimate` and `resume`;
- by its flag: `--dim 32`. Settings that are on or off have two flags, `--tucker` and `--no-tucker`.

A setting that the chosen algorithm or optimiser ignores, or that has no effect without another one, is refused with
its name when it differs from its default. "Used by" and "Needs" say which.
"""
NESTED = {SourceConfig: "dataset.sources", RuleConfig: "network.rules"}


def page() -> str:
    """The text of docs/configuration.md."""
    blocks = [INTRODUCTION]
    for section, owner in sections():
        blocks.append(f"## `[{section}]`\n\n{owner.__doc__}\n\n" + _table(owner, section))
        for kind in NESTED.values():
            if kind.startswith(f"{section}."):
                item = next(owner for owner, name in NESTED.items() if name == kind)
                blocks.append(f"### `[[{kind}]]`\n\n{item.__doc__}\n\n" + _table(item, None))
    return "\n".join(blocks)


def _table(owner: type, section: str | None) -> str:
    flag = "| flag " if section else ""
    rows = [f"| setting {flag}| type | default | allowed | used by | meaning |"]
    rows.append("|" + "---|" * (7 if section else 6))
    rows += ["| " + " | ".join(cells) + " |" for cells in _cells(owner, section)]
    return "\n".join(rows) + "\n"


def _cells(owner: Any, section: str | None) -> Iterator[list[str]]:
    for entry in dataclasses.fields(owner):
        kind, meta = type_of(owner, entry.name), entry.metadata
        flag = []
        if section:
            spelled = flag_of(section, entry.name)
            flag = [f"`{spelled}`" + (f" `--no-{spelled[2:]}`" if kind is bool else "")]
        allowed = ", ".join(f"`{choice or chr(34) * 2}`" for choice in shown_choices(entry)) or range_of(entry)
        users = meta["algorithms"] or shown_optimizers(entry)
        needs = "".join(f" Needs `{condition}`." for condition in meta["needs"])
        yield [
            f"`{entry.name}`",
            *flag,
            _type_name(kind),
            "none" if default_of(entry) == [] else f"`{literal(default_of(entry), kind)}`",
            allowed or "any",
            ", ".join(users) or "all",
            _escaped(meta["help"] + needs),
        ]


def _type_name(kind: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", bool: "on or off"}
    words = [f"`{word}`" for word in words_of(kind)]
    kind = number_of(kind)
    if not get_args(kind):
        return " or ".join((names[kind], *words))
    (item,) = get_args(kind)
    return "tables" if dataclasses.is_dataclass(item) else f"list of {names[item]}s"


def _escaped(text: str) -> str:
    """Text for a table cell, where an upright bar would end the cell."""
    return text.replace("|", "\\|")


def readme() -> str:
    """The text of README.md with the table of adapter types as `algorithms` has it."""
    rows = ["| type | `[network]` | what it is good for |", "|---|---|---|"]
    rows += [
        f"| {kind.title} | {_made_by(kind.network)} | {_escaped(kind.good_for)} |" for kind in ADAPTER_TYPES.values()
    ]
    return _with_made(README, TYPES_BEGIN, rows, "table of types")


def import_page() -> str:
    """The text of docs/importing.md with what becomes of every option as kohya/table.py has it."""
    rows = []
    for title, options in TABLES.items():
        rows += [f"### {title}", "", "| what becomes of it | options |", "|---|---|"]
        groups: dict[tuple[str, str], list[str]] = {}
        for name, row in options.items():
            groups.setdefault((row.fate, row.words), []).append(f"`{name}`")
        for (fate, words), names in groups.items():
            rows.append(f"| {_escaped(': '.join(filter(None, (fate, words))))} | {' '.join(names)} |")
        rows.append("")
    return _with_made(IMPORT_PAGE, OPTIONS_BEGIN, rows[:-1], "table of options")


def _with_made(path: Path, begin_line: str, rows: list[str], what: str) -> str:
    """The text of `path` with `rows` between its line `begin_line` and the next that ends a made part."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(begin_line)
    _, end, after = rest.partition(MADE_END)
    if not begin or not end:
        raise ConfigError(f"{path} lacks the lines between which its {what} lies: see {__file__}.")
    return "\n".join([before + begin, *rows, f"\n{end}{after}"])


def _made_by(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name} = {literal(value, type(value))}`" for name, value in settings.items())


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration: types, choices, ranges, defaults, help."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Adapter Lab training configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {section: _object_schema(owner) for section, owner in sections()},
    }


def _object_schema(owner: Any) -> dict[str, Any]:
    properties = {}
    for entry in dataclasses.fields(owner):
        meta = entry.metadata
        described = {"description": meta["help"], "default": default_of(entry)}
        limits = _value_schema(type_of(owner, entry.name), meta)
        extra = {key: list(meta[key]) for key in ("algorithms", "optimizers", "needs") if meta[key]}
        extra.update({key: meta[key] for key in ("unit", "basic") if meta[key]})
        properties[entry.name] = {**limits, **described, **{f"x-{key}": value for key, value in extra.items()}}
    return {"type": "object", "description": owner.__doc__, "additionalProperties": False, "properties": properties}


def _value_schema(kind: Any, meta: Any) -> dict[str, Any]:
    if words := words_of(kind):
        return {"anyOf": [_value_schema(number_of(kind), meta), {"enum": list(words)}]}
    if get_args(kind):
        (item,) = get_args(kind)
        return {"type": "array", "items": _object_schema(item) if dataclasses.is_dataclass(item) else TYPES[item]}
    limits = {"enum": meta["choices"], "minimum": meta["minimum"], "maximum": meta["maximum"]}
    return {**TYPES[kind], **{key: value for key, value in limits.items() if value is not None}}


TYPES: dict[type, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
}


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages, or print the schema; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m adapter_lab.docs", description="References made from the code.")
    parser.add_argument("--check", action="store_true", help="fail when a page is out of date")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema instead")
    chosen = parser.parse_args(arguments)
    if chosen.schema:
        print(json.dumps(schema(), indent=2))
        return 0
    status = 0
    made = ((PAGE, page()), (API_PAGE, reference.page()), (README, readme()), (IMPORT_PAGE, import_page()))
    for path, text in made:
        if not chosen.check:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        elif not path.exists() or path.read_bytes() != text.encode():
            print(f"{path} is out of date: run `python -m adapter_lab.docs` and commit it.", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
