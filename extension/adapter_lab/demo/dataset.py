"""The demo's training folder: drawn images of the two new characters, alone and together, with captions."""

from __future__ import annotations

import random
from pathlib import Path

from adapter_lab.errors import AdapterLabError

from .drawing import draw_scene
from .world import BACKGROUNDS, CHARACTERS, VARIATION, Character, Scene, character_caption

ALONE_SHARE = 15 / 40


def character_scene(characters: list[Character], rng: random.Random) -> Scene:
    """The given characters, left to right, in random poses before a random background."""
    return Scene(tuple(character.figure(rng) for character in characters), rng.choice(BACKGROUNDS))


def casts(count: int) -> list[tuple[Character, ...]]:
    """Who is on each of `count` images: 15/40 the first alone, 15/40 the second, the rest both, in either order."""
    first, second = CHARACTERS
    alone = round(count * ALONE_SHARE)
    together = [(first, second) if index % 2 == 0 else (second, first) for index in range(count - 2 * alone)]
    return [*[(first,)] * alone, *[(second,)] * alone, *together]


def write_demo_folder(path: Path, count: int = 40, seed: int = 1) -> list[Path]:
    """Draws `count` captioned PNGs of the new characters into `path` and returns them; equal seeds give equal bytes.

    Captions hold trigger words, pose, expression and background; what makes a character is left to its trigger word.
    Raises AdapterLabError if `path` holds other files.
    """
    path.mkdir(parents=True, exist_ok=True)
    names = ["-".join(character.trigger for character in cast) for cast in casts(count)]
    pictures = [path / f"{index:03d}-{name}.png" for index, name in enumerate(names, start=1)]
    expected = {file.name for picture in pictures for file in (picture, picture.with_suffix(".txt"))}
    foreign = sorted(file.name for file in path.iterdir() if file.name not in expected)
    if foreign:
        raise AdapterLabError(
            f"{path} already holds other files ({foreign[0]}, ...); give the demo folder an empty place."
        )
    rng = random.Random(seed)
    for picture, cast in zip(pictures, casts(count), strict=True):
        scene = character_scene(list(cast), rng)
        draw_scene(scene, rng, VARIATION).save(picture)
        caption = character_caption(scene, [character.trigger for character in cast])
        picture.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return pictures
