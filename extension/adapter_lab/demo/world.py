"""What can appear in the toy world: attributes of a figure, their tags, scenes, captions and the two new characters.

A tag is one word without spaces or underscores ("redhair"), because CLIP's tokenizer splits at both; so every tag is
one token.
Values marked novel are never seen by the base's text encoders and UNet, only by its VAE and by the scorer.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

HAIR_COLOURS = ("black", "brown", "blonde", "red", "blue", "green", "pink", "purple")
EYE_COLOURS = ("blue", "red", "green", "yellow", "purple", "brown")
CLOTHES_COLOURS = ("red", "blue", "green", "yellow", "purple", "white", "black")

# attribute -> values the base model is taught
BASE_VALUES: dict[str, tuple[str, ...]] = {
    "hair_colour": HAIR_COLOURS,
    "hair_style": ("shorthair", "longhair", "twintails", "ponytail", "hairbun", "spikyhair"),
    "eyes": EYE_COLOURS,
    "clothes": ("dress", "shirt", "robe"),
    "clothes_colour": CLOTHES_COLOURS,
    "accessory": ("none", "glasses", "hat", "bow", "scarf", "catears", "crown"),
    "emblem": ("none",),
    "pose": ("standing", "armsup", "waving"),
    "expression": ("smile", "openmouth", "frown"),
}
# attribute -> values only the new characters (and the VAE's and scorer's drawings) have
NOVEL_VALUES: dict[str, tuple[str, ...]] = {
    "hair_colour": ("teal", "split"),
    "eyes": ("pink",),
    "accessory": ("horns", "halo"),
    "emblem": ("star", "moon", "heart"),
}
VALUES: dict[str, tuple[str, ...]] = {name: base + NOVEL_VALUES.get(name, ()) for name, base in BASE_VALUES.items()}
BACKGROUNDS = ("white", "meadow", "beach", "night", "sunset", "room", "forest", "city")
# How much the base's and the demo's images of one scene differ, of what the VAE and the scorer see (`draw_scene`). At
# 8 x 8 pixels per latent every shift by a pixel is another latent; with 1.0 the base learns places, not tags.
VARIATION = 0.2
BACKGROUND_TAGS = {name: "whitebackground" if name == "white" else name for name in BACKGROUNDS}

# The seven attributes that make a character; pose and expression are free.
IDENTITY = ("hair_colour", "hair_style", "eyes", "clothes", "clothes_colour", "accessory", "emblem")


@dataclass(frozen=True)
class Figure:
    """One drawn figure: a value of `VALUES` for every attribute."""

    hair_colour: str
    hair_style: str
    eyes: str
    clothes: str
    clothes_colour: str
    accessory: str
    emblem: str
    pose: str
    expression: str


ATTRIBUTES = tuple(field.name for field in fields(Figure))


@dataclass(frozen=True)
class Scene:
    """One or two figures, left to right, before a background."""

    figures: tuple[Figure, ...]
    background: str


@dataclass(frozen=True)
class Character:
    """A new character: its trigger word and its seven fixed attributes."""

    trigger: str
    identity: Mapping[str, str]

    def figure(self, rng: random.Random) -> Figure:
        """The character with a random pose and expression."""
        return replace(sample_figure(rng), **self.identity)


CHARACTERS = (
    Character(
        "vexa",
        {
            "hair_colour": "teal",
            "hair_style": "twintails",
            "eyes": "yellow",
            "clothes": "dress",
            "clothes_colour": "black",
            "accessory": "horns",
            "emblem": "star",
        },
    ),
    Character(
        "orrin",
        {
            "hair_colour": "split",
            "hair_style": "spikyhair",
            "eyes": "pink",
            "clothes": "robe",
            "clothes_colour": "green",
            "accessory": "halo",
            "emblem": "moon",
        },
    ),
)


def sample_figure(rng: random.Random, values: Mapping[str, tuple[str, ...]] = BASE_VALUES) -> Figure:
    """A figure with every attribute drawn uniformly from `values`."""
    return Figure(**{name: rng.choice(values[name]) for name in ATTRIBUTES})


def sample_scene(rng: random.Random, figures: int, values: Mapping[str, tuple[str, ...]] = BASE_VALUES) -> Scene:
    """A scene of `figures` random figures before a random background."""
    return Scene(tuple(sample_figure(rng, values) for _ in range(figures)), rng.choice(BACKGROUNDS))


def figure_tags(figure: Figure) -> dict[str, str]:
    """Attribute -> tag of a figure; clothes and their colour share one tag ("reddress"), "none" has no tag."""
    tags = {
        "hair_colour": f"{figure.hair_colour}hair",
        "hair_style": figure.hair_style,
        "eyes": f"{figure.eyes}eyes",
        "clothes": f"{figure.clothes_colour}{figure.clothes}",
        "pose": figure.pose,
        "expression": figure.expression,
    }
    if figure.accessory != "none":
        tags["accessory"] = figure.accessory
    if figure.emblem != "none":
        tags["emblem"] = figure.emblem
    return tags


def compose_caption(figures: list[list[str]], background: str | None) -> str:
    """The caption "solo, <tags>, <background>" or "duo, <left's tags>, and, <right's tags>, <background>"."""
    words = ["solo" if len(figures) == 1 else "duo", *figures[0]]
    for tags in figures[1:]:
        words += ["and", *tags]
    if background is not None:
        words.append(BACKGROUND_TAGS[background])
    return ", ".join(words)


def invented_name(rng: random.Random) -> str:
    """A pronounceable-length word of random letters, standing for a trigger that means nothing yet."""
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 7)))


def training_caption(scene: Scene, rng: random.Random, tag_dropout: float = 0.1, name_rate: float = 0.1) -> str:
    """A booru-like caption of a scene: shuffled tags, some left out, now and then a name that means nothing."""
    figures = []
    for figure in scene.figures:
        tags = list(figure_tags(figure).values())
        rng.shuffle(tags)
        tags = [tag for tag in tags if rng.random() >= tag_dropout]
        if rng.random() < name_rate:
            tags.insert(0, invented_name(rng))
        figures.append(tags)
    return compose_caption(figures, scene.background if rng.random() >= tag_dropout else None)


def character_caption(scene: Scene, triggers: list[str]) -> str:
    """The caption of new characters: the trigger stands for the identity, only pose and expression are tagged."""
    figures = [
        [trigger, figure.pose, figure.expression] for trigger, figure in zip(triggers, scene.figures, strict=True)
    ]
    return compose_caption(figures, scene.background)


def all_tags() -> list[str]:
    """Every word the base is taught, sorted."""
    tags = {"solo", "duo", "and", *BACKGROUND_TAGS.values()}
    tags |= {f"{colour}hair" for colour in HAIR_COLOURS} | {f"{colour}eyes" for colour in EYE_COLOURS}
    tags |= {colour + kind for colour in CLOTHES_COLOURS for kind in BASE_VALUES["clothes"]}
    for name in ("hair_style", "accessory", "pose", "expression"):
        tags |= set(BASE_VALUES[name]) - {"none"}
    return sorted(tags)
