"""The images that were drawn with one adapter file: a folder with `pictures.json`, which says what each one is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapter_lab import files, jsonio
from adapter_lab.study.spec.measured import Picture, ScorePrompt

INDEX = "pictures.json"


@dataclass(frozen=True)
class _Entry:
    file: str
    prompt: ScorePrompt


def picture_name(number: int, prompt: ScorePrompt) -> str:
    """File name of the image of the prompt with this number (from 0)."""
    return f"{number + 1:03d}-{prompt.seed}.png"


def read_pictures(folder: Path) -> list[Picture]:
    """The images in a folder that are there, in order; none where nothing was drawn."""
    try:
        entries = jsonio.typed(list[_Entry], _read(folder).get("pictures", []))
    except ValueError:
        return []
    found = [Picture(folder / Path(entry.file).name, entry.prompt) for entry in entries]
    return [picture for picture in found if picture.path.is_file()]


def drawn_pictures(folder: Path, made_from: Mapping[str, Any], prompts: Sequence[ScorePrompt]) -> list[Picture] | None:
    """The images, if they are those of `prompts` and were made from the same file and settings; else None."""
    if _read(folder).get("made_from") != json.loads(json.dumps(made_from)):
        return None
    pictures = read_pictures(folder)
    return pictures if [picture.prompt for picture in pictures] == list(prompts) else None


def write_index(folder: Path, made_from: Mapping[str, Any], prompts: Sequence[ScorePrompt]) -> list[Picture]:
    """Note what the images in a folder are, once all of them are there; returns them."""
    pictures = [Picture(folder / picture_name(number, prompt), prompt) for number, prompt in enumerate(prompts)]
    entries = [{"file": picture.path.name, "prompt": asdict(picture.prompt)} for picture in pictures]
    files.write_json(folder / INDEX, {"made_from": dict(made_from), "pictures": entries}, sync=False, indent=1)
    return pictures


def _read(folder: Path) -> dict[str, Any]:
    try:
        return jsonio.table(jsonio.read(folder / INDEX))
    except (OSError, ValueError):
        return {}
