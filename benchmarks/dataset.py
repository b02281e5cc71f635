"""How long reading a training folder takes: `python benchmarks/dataset.py [--pictures 754] [--base CHECKPOINT]`.

Draws images of several sizes into a temporary folder, then times the first and second scan, the plan of an epoch,
decoding, and writing and checking the latent cache. With `--base` it also measures how far the mirrored latent of an
image is from the latent of the mirrored image, in units of the VAE posterior's standard deviation.

`--report 100000` times the report on that many tiny images instead: the first look at the folder and the second, each
in a process of its own, with its peak of memory above what it had when everything was imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

from adapter_lab.config import BaseConfig, DatasetConfig
from adapter_lab.training.dataset import Dataset, LatentCache, load_pixels, prefetch, scan

SIZES = [(1024, 1024), (1216, 832), (832, 1216), (1600, 1200), (1200, 1800), (900, 700), (1920, 1080)]
T = TypeVar("T")


def draw(folder: Path, count: int) -> None:
    """Write `count` images, three JPEG to one PNG, with booru-style captions."""
    chance = numpy.random.default_rng(0)
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(chance.integers(0, 256, (height // 16, width // 16, 3), dtype=numpy.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        path = folder / f"{1 + number % 2}_subject" / f"{number:05}{'.png' if number % 4 == 0 else '.jpg'}"
        path.parent.mkdir(exist_ok=True)
        picture.save(path, compress_level=1, quality=92)
        path.with_suffix(".txt").write_text(f"1girl, solo, tag {number % 30}, smile, outdoors, standing", "utf-8")


def timed(what: str, compute: Callable[[], T], count: int = 1) -> T:
    """Run `compute`, print how long it took, and per item where `count` is more than one."""
    started = time.perf_counter()
    result = compute()
    seconds = time.perf_counter() - started
    each = f"  ({1000 * seconds / count:.1f} ms each)" if count > 1 else ""
    print(f"{what:<46}{seconds:8.2f} s{each}")
    return result


def small_latents(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for a VAE: four channels at an eighth of the sides."""
    small = torch.nn.functional.avg_pool2d(pixels, 8)
    mean = torch.cat([small, small[:, :1]], dim=1)
    return mean, mean.abs()


def mirrored_latents(dataset: Dataset, checkpoint: str, count: int = 16) -> None:
    """Print how much a mirrored latent differs from the latent of the mirrored image."""
    from adapter_lab.training.bases import open_base

    vae = open_base(BaseConfig(checkpoint=checkpoint)).load_vae(torch.float32, torch.device("cpu"))
    ratios, relative = [], []
    for item in dataset.cache_samples()[:count]:
        pixels = load_pixels(item)[0][None]
        with torch.no_grad():
            plain, mirrored = vae.encode(pixels).latent_dist, vae.encode(pixels.flip(3)).latent_dist
        difference = plain.mean.flip(3) - mirrored.mean
        ratios.append((difference.square().mean().sqrt() / mirrored.std.square().mean().sqrt()).item())
        relative.append((difference.norm() / mirrored.mean.norm()).item())
    print(
        f"a mirrored latent is off by {100 * sum(relative) / len(relative):.0f}% of the latent, "
        f"{sum(ratios) / len(ratios):.0f} times the posterior's standard deviation ({len(ratios)} images)"
    )


def link(folder: Path, count: int) -> None:
    """`count` names of 200 tiny images, each with a caption of its own, in folders of 10,000."""
    chance = numpy.random.default_rng(0)
    for number in range(min(200, count)):
        values = chance.integers(0, 256, (16 + number % 3, 16, 3), dtype=numpy.uint8)
        (folder / "drawn").mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / "drawn" / f"{number}.png")
    for number in range(count):
        below = folder / "linked" / f"{number // 10_000:03}"
        below.mkdir(parents=True, exist_ok=True)
        os.link(folder / "drawn" / f"{number % 200}.png", below / f"{number:06}.png")
        tags = [f"tag{int(tag)}" for tag in chance.integers(0, 5000, 12)]
        (below / f"{number:06}.txt").write_text(", ".join(["subject", *tags]))


LOOK = """
import json, resource, sys, threading, time
import psutil
from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset.known_report import report_on
config = DatasetConfig(folder=sys.argv[1], resolution=16, bucket_step=8, bucket_min=16, bucket_max=32)
own = psutil.Process()
before = peak = own.memory_info().rss
def watch():
    global peak
    while True:
        peak = max(peak, own.memory_info().rss)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
begin, cpu = time.perf_counter(), time.process_time()
report = report_on(config, 16)
text = json.dumps(report.to_dict())
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
print(f"{report.pictures} images: {seconds:.1f} s ({cpu:.1f} s of processor), "
      f"{(peak - before) / 2**20:.0f} MiB above the start, report of {len(text) / 2**20:.1f} MiB")
"""


def looks(count: int) -> None:
    """Time the report on `count` tiny images, twice."""
    with tempfile.TemporaryDirectory() as folder:
        link(Path(folder), count)
        for what in ("first look", "second look"):
            done = subprocess.run(
                [sys.executable, "-c", LOOK, f"{folder}/linked"],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "extension")},
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"{what:12} {done.stdout.strip()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=754)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--report", type=int, default=0, metavar="COUNT", help="time reports on so many tiny images")
    parser.add_argument("--folder", help="use this folder instead of drawing one")
    parser.add_argument("--base", default="", help="checkpoint whose VAE the mirrored latents are measured with")
    options = parser.parse_args()
    if options.report:
        looks(options.report)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not options.folder:
            timed("drawing the images", lambda: draw(folder, options.pictures), options.pictures)
        cache_folder = str(Path(temporary) / "cache")
        config = DatasetConfig(str(folder), resolution=options.resolution, shuffle_tags=True, cache_folder=cache_folder)
        dataset = timed("first scan (every image decoded)", lambda: scan(config), options.pictures)
        dataset = timed("second scan", lambda: scan(config))
        print(f"{'':<46}{len(dataset.items):8} images, {len(dataset.bucket_counts())} buckets")
        timed("plan of an epoch", lambda: dataset.plan(0, 2, 0))
        some = dataset.plan(0, 1, 0)[:100]
        timed("pixels of 100 images, 1 thread", lambda: list(prefetch(some, threads=1, ahead=1)).clear(), len(some))
        samples = dataset.cache_samples()
        cache = LatentCache(dataset.cache_folder, "benchmark")
        timed("filling the latent cache (no VAE)", lambda: cache.fill(samples, small_latents, 4), len(samples))
        timed("checking the latent cache", lambda: cache.missing(samples), len(samples))
        timed("reading latents", lambda: [cache.get(sample) for sample in samples], len(samples))
        if options.base:
            mirrored_latents(dataset, options.base)


if __name__ == "__main__":
    main()
