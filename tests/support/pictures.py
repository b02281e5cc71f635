"""Small images and training folders for tests, drawn by code."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (40, 50, 210), (128, 128, 128)


def quarters(width: int, height: int) -> Image.Image:
    """An image whose quarters are red, green (top), blue, grey (bottom): shows every rotation and mirroring."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(GREY, (width // 2, height // 2, width, height))
    return picture


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Random pixels, so that each seed is another image and files do not compress to nothing."""
    values = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def write(
    folder: Path, name: str, picture: Image.Image | None = None, caption: str | None = None, **options: object
) -> Path:
    """Save an image (64 x 64 noise unless given) and its caption as `name` below `folder`; returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture is None:
        picture = noise(64, 64, seed=sum(name.encode()))
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    return path


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    """The colours at the middle of the four quarters: top left, top right, bottom left, bottom right."""
    width, height = picture.size
    places = [(x * width // 4, y * height // 4) for y in (1, 3) for x in (1, 3)]
    return [picture.convert("RGB").getpixel(place) for place in places]
