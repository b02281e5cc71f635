"""Measurements on disk: `scores/<run>/<step>.json`, which hold for one adapter file and one scorer's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapter_lab import files
from adapter_lab.study.scores import Value


def read_scores(path: Path) -> list[Value]:
    """All values in a file of scores, of every scorer; empty where there is no such file or it is broken."""
    return [Value(**value) for entry in _read(path).get("scorers", {}).values() for value in entry["values"]]


def kept_scores(path: Path, digest: str, name: str, settings: Mapping[str, Any]) -> list[Value] | None:
    """A scorer's values, if they were measured on the adapter file `digest` with these settings; else None."""
    content = _read(path)
    entry = content.get("scorers", {}).get(name)
    if content.get("file") != digest or entry is None or entry["settings"] != json.loads(json.dumps(settings)):
        return None
    return [Value(**value) for value in entry["values"]]


def write_scores(path: Path, digest: str, name: str, settings: Mapping[str, Any], values: Sequence[Value]) -> None:
    """Keep a scorer's values; those of other scorers stay unless they belong to another adapter file."""
    content = _read(path)
    if content.get("file") != digest:
        content = {"file": digest, "scorers": {}}
    content["scorers"][name] = {"settings": dict(settings), "values": [asdict(value) for value in values]}
    files.make_folder(path.parent)
    files.write_json(path, content, indent=1)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
