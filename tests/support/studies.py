"""Small studies with folders of plainly coloured images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.runs.events import EventLog
from adapter_lab.study.spec.definition import Study

Colour = tuple[int, int, int]


def captioned_folder(folder: Path, captions: Mapping[str, Colour], side: int = 64) -> Path:
    """An image of one colour per caption, named after the caption's first tag."""
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


def training_of(study: Path, name: str, steps: int, saved: Mapping[int, Path] = MappingProxyType({})) -> None:
    """A LoRA of six steps as it leaves its folder in the study's, after `steps`; `saved`: step -> where its file is."""
    folder = study / "runs" / name
    folder.mkdir(parents=True)
    config = TrainConfig()
    config.run.steps, config.save.every_steps = 6, 2
    config_file.write(config, folder / "config.toml")
    with EventLog(folder / "events.jsonl") as log:
        log.write("started", name=name, algo="lora")
        for step in range(1, steps + 1):
            log.write("step", step=step, loss=0.5, seconds_per_step=2.0, progress=step / 6)
        for step, place in saved.items():
            path = place / f"{study.name}-{name}-{step:06d}.safetensors"
            path.write_bytes(b"x")
            log.write("saved", step=step, path=path, bytes=1, final=False, removed=[])
