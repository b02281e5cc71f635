"""`study.toml`: a study as TOML, read and written.

[study], [budget] and [race] are the study's own; the sections of a training configuration hold what all variants share;
each [[variants]] has a name and the settings in which it differs; [scores.<scorer>] are a scorer's settings.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from adapter_lab import config_file, files, upgrades
from adapter_lab.config import TrainConfig, default_of, sections, type_of
from adapter_lab.errors import ConfigError
from adapter_lab.study.spec.definition import Budget, General, Race, Study, Variant

OWN: dict[str, tuple[str, type]] = {
    "study": ("general", General),
    "budget": ("budget", Budget),
    "race": ("race", Race),
}
HEADER = "Adapter Lab study: variants of one training at equal budget"


def load(path: str | os.PathLike[str]) -> Study:
    """The study in a TOML file; raises ConfigError with everything that is not understood."""
    return loads(config_file.read_text(Path(path)), str(path))


def loads(text: str, where: str = "The study") -> Study:
    """As `load`, of a text; `where` names it in messages."""
    number, tables = upgrades.format_of(text, HEADER, where), config_file.parse_toml(text, where)
    return from_tables(_in_words(tables, number), where)


def from_tables(tables: Mapping[str, Any], where: str) -> Study:
    """A study from nested tables."""
    problems: list[str] = []
    known = {*OWN, *dict(sections()), "variants", "scores"}
    problems += [f"There is no section {name} in a study." for name in tables if name not in known]
    study = Study()
    for section, (attribute, owner) in OWN.items():
        values = config_file.table_values(_table(tables, section, problems), owner, section, problems)
        setattr(study, attribute, owner(**values))
    study.variants = _variants(tables.get("variants", []), problems)
    study.scores = {name: dict(_table(tables.get("scores", {}), name, problems)) for name in tables.get("scores", {})}
    config_file.raise_all(where, problems)
    study.shared = config_file.from_tables({k: v for k, v in tables.items() if k in dict(sections())}, where)
    return study


def _in_words(tables: dict[str, Any], number: int) -> dict[str, Any]:
    """A study of a format in the words of this one, in variants too."""
    tables = upgrades.in_words(tables, number)
    for variant in variants if isinstance(variants := tables.get("variants"), list) else []:
        if isinstance(variant, dict) and isinstance(settings := variant.get("settings"), dict):
            nested = upgrades.in_words(_nested(settings), number)
            variant["settings"] = {f"{s}.{name}": value for s, table in nested.items() for name, value in table.items()}
    return tables


def _table(tables: Mapping[str, Any], name: str, problems: list[str]) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if isinstance(table, dict):
        return table
    problems.append(f"{name} is a section: write its settings below [{name}].")
    return {}


def _variants(entries: Any, problems: list[str]) -> list[Variant]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append("variants must be tables: begin each with [[variants]].")
        return []
    variants = []
    for index, entry in enumerate(entries):
        where = f"variants[{index}]"
        unknown = set(entry) - {"name", "settings"}
        problems += [f"{where} has {name}, but a variant has only name and settings." for name in sorted(unknown)]
        name, settings = entry.get("name", ""), entry.get("settings", {})
        if not isinstance(name, str) or not name.strip():
            problems.append(f"{where} has no name: give it one, in quotes.")
        elif not isinstance(settings, dict):
            problems.append(f'{where}.settings must be a table such as {{ "network.dim" = 16 }}, but is {settings!r}.')
        else:
            variants.append(Variant(name.strip(), _typed(settings, f"Variant {name}", problems)))
    return variants


def _typed(settings: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Settings by path; `"network.dim" = 1` and `network.dim = 1` are the same here, unlike in TOML."""
    tables = _nested(settings)
    try:
        config = config_file.from_tables(tables, where)
    except ConfigError as error:
        problems.append(str(error))
        return {}
    return {f"{s}.{name}": getattr(getattr(config, s), name) for s, table in tables.items() for name in table}


def _nested(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A variant's settings as tables by section."""
    tables: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        tables.setdefault(section, {}).update(value if isinstance(value, dict) else {name: value})
    return tables


# Writing


def dumps(study: Study) -> str:
    """The study as TOML, its own settings with their meaning; `loads(dumps(study)) == study`."""
    blocks = [upgrades.first_line(HEADER)]
    for section, (attribute, owner) in OWN.items():
        blocks.append("\n".join(_section(section, owner, getattr(study, attribute))) + "\n")
    shared = config_file.dumps(study.shared, only_changed=True).split("\n", 1)[1].strip("\n")
    blocks.append(f"# What all variants share: the sections of a training configuration.\n{shared}\n")
    blocks += ["\n".join(_variant(variant)) + "\n" for variant in study.variants]
    for name, settings in study.scores.items():
        lines = [f"{key} = {_literal(value)}" for key, value in settings.items()]
        blocks.append("\n".join([f"[scores.{_key(name)}]", *lines]) + "\n")
    return "\n".join(blocks)


def write(study: Study, path: Path) -> None:
    """Replace a file by `dumps(study)`; raises WriteError where that fails."""
    files.write_text(path, dumps(study))


def _section(section: str, owner: Any, values: Any) -> Iterable[str]:
    yield f"[{section}]"
    for entry in dataclasses.fields(owner):
        comment = "; ".join(filter(None, (entry.metadata["help"].rstrip("."), config_file.remark(entry))))
        yield f"# {comment}"
        yield f"{entry.name} = {config_file.literal(getattr(values, entry.name), type_of(owner, entry.name))}"


def _variant(variant: Variant) -> Iterable[str]:
    yield "[[variants]]"
    yield f"name = {_literal(variant.name)}"
    if variant.settings:
        yield "[variants.settings]"
    owners = dict(sections())
    for path, value in variant.settings.items():
        section, name = path.split(".")
        kind = type_of(owners[section], name)
        if get_origin(kind) is list and dataclasses.is_dataclass(get_args(kind)[0]):
            yield f'"{path}" = [{", ".join(_inline(item) for item in value)}]'
        else:
            yield f'"{path}" = {config_file.literal(value, kind)}'


def _inline(item: Any) -> str:
    """A rule or a source as an inline table, with what differs from its defaults."""
    changed = [
        f"{entry.name} = {config_file.literal(getattr(item, entry.name), type_of(type(item), entry.name))}"
        for entry in dataclasses.fields(item)
        if getattr(item, entry.name) != default_of(entry)
    ]
    return "{ " + ", ".join(changed) + " }"


def _literal(value: Any) -> str:
    """A value of a scorer's settings, whose types only the scorer knows."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(entry) for entry in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_literal(entry)}" for key, entry in value.items()) + " }"
    return config_file.literal(value, type(value))


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _literal(name)


def shared_from(config: TrainConfig, decided: Iterable[str]) -> tuple[TrainConfig, list[str]]:
    """A copy of `config` without the settings that a study decides, and a remark on each that was set."""
    tables: dict[str, dict[str, Any]] = {}
    remarks = []
    for section, owner in sections():
        for entry in dataclasses.fields(owner):
            value, path = getattr(getattr(config, section), entry.name), f"{section}.{entry.name}"
            if value == default_of(entry):
                continue
            if path in decided:
                remarks.append(f"{path} is decided by the study; the given {value!r} is not used.")
            else:
                tables.setdefault(section, {})[entry.name] = value
    return config_file.from_tables(tables, "The shared settings"), remarks
