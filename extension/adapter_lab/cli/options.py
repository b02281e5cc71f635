"""Command-line options made from config.py, and the configuration that they make together."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, get_args

from adapter_lab import presets
from adapter_lab.config import BASES, TrainConfig, default_of, flag_of, number_of, sections, settings, type_of
from adapter_lab.config_file import from_tables, literal, load, parse_changes, parse_value, read_toml, remark
from adapter_lab.errors import ConfigError, shown

# Where argparse keeps the value of a setting's flag.
PREFIX = "setting "


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add --config, --preset, --set and a flag for every setting."""
    parser.usage = "%(prog)s [--preset NAME] [--config FILE] [--set A.B=C ...] [--FLAG VALUE ...]"
    sources = parser.add_argument_group("where settings come from", "Later ones win; the flags below win over all.")
    sources.add_argument("--preset", metavar="NAME", help="settings tried for a base, type and memory; see `presets`")
    sources.add_argument("--config", metavar="FILE", help="TOML file of settings, such as a run folder's config.toml")
    sources.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help="one setting, such as network.dim=8"
    )
    groups = {name: parser.add_argument_group(f"[{name}]", owner.__doc__) for name, owner in sections()}
    owners = dict(sections())
    for section, name, entry in settings():
        _add_flag(groups[section], section, name, type_of(owners[section], name), entry)


def _add_flag(group: Any, section: str, name: str, kind: Any, entry: dataclasses.Field[Any]) -> None:
    default = default_of(entry)
    details = "; ".join(
        part for part in (remark(entry), f"default {literal(default, kind)}" if default != [] else "") if part
    )
    options: dict[str, Any] = {
        "dest": f"{PREFIX}{section}.{name}",
        "default": argparse.SUPPRESS,
        "help": f"{entry.metadata['help']} [{details}]".replace("%", "%%"),
    }
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["metavar"] = METAVARS.get(
            number_of(kind), "TABLES" if dataclasses.is_dataclass((get_args(kind) or [None])[0]) else "X"
        )
        if get_args(kind) in ((str,), (float,)):
            options["nargs"] = "*"
    flag = flag_of(section, name)
    group.add_argument(flag, **options)
    american = flag.replace("regularis", "regulariz")
    if american != flag:
        group.add_argument(american, **{**options, "help": argparse.SUPPRESS})


METAVARS: dict[Any, str] = {str: "TEXT", int: "N", float: "X", list[str]: "TEXT", list[float]: "X"}


def chosen_config(chosen: argparse.Namespace) -> tuple[TrainConfig, list[str]]:
    """The configuration that preset, file, --set and flags make, and remarks on what overrode what.

    Raises ConfigError with everything that is not understood.
    """
    remarks: list[str] = []
    config = presets.preset(chosen.preset) if chosen.preset else TrainConfig()
    if chosen.config:
        before = config
        config = load(chosen.config, into=config)
        if chosen.preset:
            remarks += _overridden(before, config, chosen)
    changes = {**parse_changes(chosen.set), **flag_values(chosen)}
    tables: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        section, name = path.split(".")
        tables.setdefault(section, {})[name] = value
    config = from_tables(tables, "The options", config)
    if config.base.checkpoint in BASES:  # `--base sdxl`: a family, for what needs no checkpoint
        config.base.family, config.base.checkpoint = config.base.checkpoint, ""
    return config, remarks


def flag_values(chosen: argparse.Namespace) -> dict[str, Any]:
    """The settings given as flags, {"section.name": value}, each of its setting's type."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    owners = dict(sections())
    for key, given in vars(chosen).items():
        if not key.startswith(PREFIX):
            continue
        path = key.removeprefix(PREFIX)
        section, name = path.split(".")
        kind = type_of(owners[section], name)
        try:
            values[path] = _flag_value(given, kind)
        except ValueError as error:
            problems.append(f"{flag_of(section, name)} must be {error}, but is {shown(given)}.")
    if problems:
        raise ConfigError("\n".join(problems))
    return values


def _flag_value(given: Any, kind: Any) -> Any:
    if isinstance(given, bool):
        return given
    if isinstance(given, list):
        (item,) = get_args(kind)
        return [parse_value(text, item) for entry in given for text in (entry.split(",") if item is float else [entry])]
    return parse_value(given, kind)


def _overridden(before: TrainConfig, after: TrainConfig, chosen: argparse.Namespace) -> list[str]:
    """The settings of the preset that the file has otherwise: never without a word."""
    named = read_toml(Path(chosen.config))
    remarks = []
    for section, name, entry in settings():
        old, new = getattr(getattr(before, section), name), getattr(getattr(after, section), name)
        if old != new and old != default_of(entry) and name in named.get(section, {}):
            remarks.append(f"{chosen.config} sets {section}.{name} to {new!r}, not to the preset's {old!r}.")
    return remarks
