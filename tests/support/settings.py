"""Configurations for tests, from changes as the command line has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.config_file import from_tables, parse_changes


def set_options(config: TrainConfig, changes: Iterable[str]) -> TrainConfig:
    """A copy of `config` with `section.name=value` changes."""
    tables: dict[str, dict[str, Any]] = {}
    for path, value in parse_changes(changes).items():
        section, name = path.split(".")
        tables.setdefault(section, {})[name] = value
    return from_tables(tables, "--set", config)
