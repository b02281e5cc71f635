"""Measurements on disk: `scores/<run>/<step>.json`, which hold for one adapter file and one scorer's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_lab import files, jsonio
from adapter_lab.study.spec.measured import Value


@dataclass
class _Measured:
    settings: dict[str, Any]
    values: list[Value]


@dataclass
class _Scores:
    """What the file holds: the adapter file's digest, and measurements by scorer."""

    file: str
    scorers: dict[str, _Measured] = field(default_factory=dict)


def read_scores(path: Path) -> list[Value]:
    """All values in a file of scores, of every scorer; empty where there is no such file or it is broken."""
    return [value for entry in _read(path).scorers.values() for value in entry.values]


def kept_scores(path: Path, digest: str, name: str, settings: Mapping[str, Any]) -> list[Value] | None:
    """A scorer's values, if they were measured on the adapter file `digest` with these settings; else None."""
    content = _read(path)
    entry = content.scorers.get(name)
    if content.file != digest or entry is None or entry.settings != json.loads(json.dumps(settings)):
        return None
    return entry.values


def write_scores(path: Path, digest: str, name: str, settings: Mapping[str, Any], values: Sequence[Value]) -> None:
    """Keep a scorer's values; those of other scorers stay unless they belong to another adapter file."""
    content = _read(path)
    if content.file != digest:
        content = _Scores(digest)
    content.scorers[name] = _Measured(dict(settings), list(values))
    files.make_folder(path.parent)
    files.write_json(path, asdict(content), indent=1)


def _read(path: Path) -> _Scores:
    try:
        return jsonio.typed(_Scores, jsonio.read(path))
    except (OSError, ValueError):
        return _Scores("")
