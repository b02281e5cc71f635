"""Trains the toy world's Anima: `python -m adapter_lab.demo.make_anima`. A broken-off run goes on from its folder."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .anima_file import write_toy_anima
from .bases import ANIMA_FOLDER
from .train_anima import cache_latents, load_base, load_vae, train_base, train_decoder, train_vae
from .train_base import draw_scenes
from .train_vae import saved_step

PICTURES_SEED = 7


@dataclass(frozen=True)
class Effort:
    """Steps of each stage and numbers of images."""

    vae: int = 1500
    base: int = 7000
    decoder: int = 700
    vae_pictures: int = 6000
    base_pictures: int = 10000

    @classmethod
    def tiny(cls) -> Effort:
        """Enough to run every line, not to learn anything."""
        return cls(vae=2, base=2, decoder=2, vae_pictures=16, base_pictures=40)


def make_anima(work: Path, out: Path, effort: Effort | None = None) -> None:
    """Runs every stage whose result is not in `work` yet, then writes the three files into `out`."""
    effort, started = effort or Effort(), time.monotonic()
    work.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    def unfinished(name: str, steps: int) -> bool:
        return saved_step(work / f"{name}.safetensors") < steps

    if unfinished("vae", effort.vae):
        train_vae(work, effort.vae, say, effort.vae_pictures)
    scenes = draw_scenes(effort.base_pictures, PICTURES_SEED)
    if not (work / "latents.safetensors").exists():
        cache_latents(work, scenes, say)
    if unfinished("base", effort.base):
        train_base(work, effort.base, scenes, say)
    if unfinished("decoder", effort.decoder):
        train_decoder(work, effort.decoder, say, effort.vae_pictures)
    size = write_toy_anima(out, work, load_base(work), load_vae(work, "decoder"))
    say(f"wrote {out}, {size / 1e6:.2f} MB in all")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m adapter_lab.demo.make_anima", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("toy-anima-work"),
        help="folder for intermediate files; kept, so that a broken-off run goes on",
    )
    parser.add_argument("--out", type=Path, default=ANIMA_FOLDER, help="folder to write the three files into")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make_anima(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
