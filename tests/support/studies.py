"""Small studies with folders of plainly coloured pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from adapter_lab.study.definition import Study

Colour = tuple[int, int, int]


def captioned_folder(folder: Path, captions: Mapping[str, Colour], side: int = 64) -> Path:
    """A picture of one colour per caption, named after the caption's first tag."""
    folder.mkdir(parents=True)
    count: Counter[str] = Counter()
    for caption, colour in captions.items():
        name = "-".join(caption.split(",")[0].split())
        count[name] += 1
        path = folder / f"{name}-{count[name]}.png"
        Image.new("RGB", (side, side), colour).save(path)
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def study_of(folder: Path, **scores: dict[str, Any]) -> Study:
    """A study of that folder at 64 pixels."""
    study = Study(scores=scores)
    study.shared.dataset.folder, study.shared.dataset.resolution = str(folder), 64
    study.shared.dataset.cache_latents = "memory"
    return study
