"""Trains the toy world's model: `python -m adapter_lab.demo.make_toy`. Stages that are done are not repeated."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from .toy_file import TOY_FILE, write_toy_file
from .train_base import cache_latents, draw_scenes, load_base, train_base
from .train_scorer import load_scorer, train_scorer
from .train_vae import load_vae, saved_step, train_decoder, train_vae

VAE_STEPS = 1250
DECODER_STEPS = 800
BASE_STEPS = 2200
SCORER_STEPS = 1500
PICTURES = 14000
PICTURES_SEED = 7
ERROR_FILE = TOY_FILE.with_name("scorer_error.json")


def unfinished(path: Path, steps: int) -> bool:
    """Whether a stage's file is missing or was saved before its last step."""
    return saved_step(path) < steps


def make_toy(work: Path, out: Path = TOY_FILE, errors: Path = ERROR_FILE) -> None:
    """Runs every stage whose result is not in `work` yet, then writes the toy file and the scorer's errors."""
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    if unfinished(work / "vae.safetensors", VAE_STEPS):
        train_vae(work, VAE_STEPS, say)
    scenes = draw_scenes(PICTURES, PICTURES_SEED)
    if not (work / "latents.safetensors").exists():
        cache_latents(load_vae(work), work, scenes, say)
    if unfinished(work / "base.safetensors", BASE_STEPS):
        train_base(work, BASE_STEPS, scenes, say)
    if unfinished(work / "decoder.safetensors", DECODER_STEPS):
        train_decoder(work, DECODER_STEPS, say)
    factor = load_file(work / "latents.safetensors")["scaling_factor"].item()
    vae = load_vae(work, factor, "decoder.safetensors")
    if unfinished(work / "scorer.safetensors", SCORER_STEPS):
        train_scorer(work, vae, SCORER_STEPS, say)
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
