"""Runs small enough for tests: drawn images, tiny bases, and settings under which a run takes about a second."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from adapter_lab.config import TrainConfig
from adapter_lab.families import TRANSFORMERS
from adapter_lab.runs.events import read_events
from tests.support.anima import write_anima
from tests.support.checkpoints import tiny_layout, write_random_checkpoint

# Matrices this small are slower on several threads, and much slower where tests run beside each other.
torch.set_num_threads(1)


@cache
def _shared_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="adapter-lab-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny_base(family: str, v_prediction: bool = False) -> Path:
    """A checkpoint of random weights of a tiny model of a family, made once per test session."""
    if family in TRANSFORMERS:
        return write_anima(_shared_folder() / family)
    shapes = tiny_layout(family)
    if v_prediction:
        shapes |= {"v_pred": (0,), "ztsnr": (0,)}
    name = f"{family}{'-v' if v_prediction else ''}.safetensors"
    return write_random_checkpoint(_shared_folder() / name, shapes, torch.float32)


def draw_pictures(folder: Path, count: int = 4, size: tuple[int, int] = (64, 64)) -> Path:
    """A folder of drawn images with captions; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = Image.new("RGB", size, (40 * index % 256, 200 - 30 * index % 200, 90))
        ImageDraw.Draw(picture).ellipse((10, 10, 30 + 5 * index % 30, 50), fill=(250, 10 * index % 256, 0))
        picture.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"sks, thing {index}, red", encoding="utf-8")
    return folder


def tiny_config(folder: Path, family: str = "sd15", pictures: int = 4, **changes: Any) -> TrainConfig:
    """A run of 3 steps of AdamW on a tiny base; `changes` are settings such as run__steps=5."""
    config = TrainConfig()
    config.base.checkpoint = str(tiny_base(family))
    config.dataset.folder = str(draw_pictures(folder / "pictures", pictures))
    config.dataset.cache_latents = "memory"
    config.network.dim = 4
    config.network.alpha = 4.0
    config.network.feed_forward = config.network.projections = False
    config.optimizer.name = "adamw"
    config.optimizer.lr = 1e-2
    config.optimizer.clip_grad_norm = 0.0
    config.precision.device = "cpu"
    config.precision.gradient_checkpointing = False
    config.run.runs_folder = str(folder / "runs")
    config.run.batch_size = 2
    config.run.steps = 3
    for name, value in changes.items():
        section, setting = name.split("__")
        assert hasattr(getattr(config, section), setting), name
        setattr(getattr(config, section), setting, value)
    return config


def losses_of(run_folder: Path) -> list[float]:
    """The loss of every step of a run, in order, each step once."""
    steps = [event for event in read_events(run_folder / "events.jsonl") if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, len(steps) + 1))
    return [event["loss"] for event in steps]


def events_of(run_folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [event for event in read_events(run_folder / "events.jsonl") if event["event"] == kind]
