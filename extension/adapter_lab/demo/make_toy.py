"""Trains the toy world's model: `python -m adapter_lab.demo.make_toy`. Stages that are done are not repeated."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from .toy_file import TOY_FILE, write_toy_file
from .train_base import cache_latents, draw_scenes, load_base, train_base
from .train_scorer import load_scorer, train_scorer
from .train_vae import load_vae, saved_step, train_decoder, train_vae

PICTURES_SEED = 7
ERROR_FILE = TOY_FILE.with_name("scorer_error.json")


@dataclass(frozen=True)
class Effort:
    """Steps of each stage and numbers of images."""

    vae: int = 1250
    base: int = 3800
    decoder: int = 1000
    scorer: int = 1500
    vae_pictures: int = 8000
    base_pictures: int = 8000
    scorer_pictures: int = 14000
    held_out: int = 2000

    @classmethod
    def tiny(cls) -> Effort:
        """Enough to run every line, not to learn anything."""
        return cls(
            vae=2, base=2, decoder=2, scorer=2, vae_pictures=16, base_pictures=40, scorer_pictures=64, held_out=8
        )


def unfinished(path: Path, steps: int) -> bool:
    """Whether a stage's file is missing or was saved before its last step."""
    return saved_step(path) < steps


def make_toy(work: Path, out: Path = TOY_FILE, errors: Path = ERROR_FILE, effort: Effort | None = None) -> None:
    """Runs every stage whose result is not in `work` yet, then writes the toy file and the scorer's errors."""
    effort, started = effort or Effort(), time.monotonic()
    work.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    if unfinished(work / "vae.safetensors", effort.vae):
        train_vae(work, effort.vae, say, pictures=effort.vae_pictures)
    scenes = draw_scenes(effort.base_pictures, PICTURES_SEED)
    if not (work / "latents.safetensors").exists():
        cache_latents(load_vae(work), work, scenes, say)
    if unfinished(work / "base.safetensors", effort.base):
        train_base(work, effort.base, scenes, say)
    if unfinished(work / "decoder.safetensors", effort.decoder):
        train_decoder(work, effort.decoder, say, pictures=effort.vae_pictures)
    factor = load_file(work / "latents.safetensors")["scaling_factor"].item()
    vae = load_vae(work, factor, "decoder.safetensors")
    if unfinished(work / "scorer.safetensors", effort.scorer):
        train_scorer(work, vae, effort.scorer, say, pictures=effort.scorer_pictures, held_out=effort.held_out)
    size = write_toy_file(out, load_base(work), vae, load_scorer(work / "scorer.safetensors"))
    shutil.copyfile(work / "scorer_error.json", errors)
    say(f"wrote {out}, {size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m adapter_lab.demo.make_toy", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("toy-work"),
        help="folder for intermediate files; kept, so that a broken-off run goes on",
    )
    parser.add_argument("--out", type=Path, default=TOY_FILE, help="the checkpoint to write")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make_toy(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
