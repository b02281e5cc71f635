"""Study folders as they lie on disk, finished or not, whole or damaged: which adapter files each has saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adapter_lab import jsonio
from adapter_lab.runs.events import read_events


def studies_in(roots: Iterable[Path]) -> dict[str, Path]:
    """The study folders directly below some folders, by name; the first of equal names."""
    found: dict[str, Path] = {}
    for root in roots:
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "study.toml").is_file() or (folder / "state.json").is_file():
                found.setdefault(folder.name, folder)
    return found


def adapter_files(study: Path) -> list[Path]:
    """The adapter files that the trainings of a study saved and nobody has deleted."""
    found = [path for run in run_folders(study) for path in saved_by(run)]
    own = sorted((study / "adapters").rglob("*.safetensors")) if (study / "adapters").is_dir() else []
    return list(dict.fromkeys(path for path in (*found, *own) if path.is_file()))


def run_folders(study: Path) -> list[Path]:
    """The run folders of a study's trainings."""
    runs = study / "runs"
    return sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []


def saved_by(run: Path) -> list[Path]:
    """The adapter files a run has saved, in order."""
    return [Path(str(event["path"])) for event in events_of(run) if event["event"] == "saved" and "path" in event]


def events_of(run: Path) -> list[dict[str, Any]]:
    """The events of a run; none where there is no log that can be read."""
    try:
        return read_events(run / "events.jsonl")
    except (OSError, ValueError, KeyError, TypeError):
        return []


def recorded_values(study: Path, run: str, step: int) -> Iterator[dict[str, Any]]:
    """The measurements of a study's scorers for the file a training saved after `step`."""
    path = study / "scores" / run / f"{step}.json"
    try:
        waiting = [jsonio.read(path)]
    except (OSError, ValueError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "metric" in value and isinstance(value.get("value"), (int, float)):
            yield value
        elif isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
