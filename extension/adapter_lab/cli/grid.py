"""`adapter-lab grid`: images by type and step, for people without a web UI."""

from __future__ import annotations

import argparse
from pathlib import Path

from adapter_lab import files
from adapter_lab.cli.options import add_settings, chosen_config
from adapter_lab.errors import AdapterLabError

# How an image is written, by what its file is called.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `grid`."""
    parser.add_argument("sources", metavar="PATH", nargs="+", help="adapter files, or folders of them, runs or studies")
    parser.add_argument("--out", metavar="FILE", default="grid.png", help="image to write; default: grid.png")
    parser.add_argument("--strength", metavar="X", type=float, default=1.0, help="strength of the adapters; default: 1")
    parser.add_argument("--columns", metavar="N", type=int, default=0, help="at most so many steps, evenly; 0: all")
    add_settings(parser)
    parser.usage = "%(prog)s PATH [PATH ...] --base CKPT --prompts TEXT [TEXT ...] [--out FILE] [--FLAG VALUE ...]"


def command(chosen: argparse.Namespace) -> int:
    """Draw and write a grid."""
    from adapter_lab.study.pictures.drawn_grid import draw_grid

    config, _ = chosen_config(chosen)
    if not config.base.checkpoint:
        raise AdapterLabError("The grid needs the base model: give --base with its checkpoint.")
    if not config.preview.prompts:
        raise AdapterLabError("The grid needs something to draw: give --prompts with one or more prompts.")
    out = Path(chosen.out)
    if out.suffix.lower() not in FORMATS:
        raise AdapterLabError(f"{out} is no image's name: let it end in {', '.join(FORMATS)}.")
    sources = [Path(source) for source in chosen.sources]
    grid = draw_grid(config, sources, chosen.strength, chosen.columns, config.preview.baseline)
    with files.replacing(out, sync=False) as file:
        grid.picture.save(file, format=FORMATS[out.suffix.lower()])
    for sentence in grid.remarks:
        print(f"Note: {sentence}")
    print(f"Wrote {chosen.out}: {len(grid.rows)} rows, {len(grid.columns)} columns.")
    return 0
