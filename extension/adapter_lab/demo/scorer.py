"""Reads an image of the toy world back into attributes: likeness, bleeding and tag accuracy.

A small convolutional net sees the image at 64 x 64 and classifies every attribute of the figure in the middle, on
the left and on the right, with one head shared by the three places.
`scorer_error.json` beside this file states its error on held-out drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import nn

from .world import ATTRIBUTES, BACKGROUNDS, CHARACTERS, IDENTITY, VALUES, Character, Figure, Scene

PLACES = {"middle": 2, "left": 0, "right": 4}  # first of the four feature columns (of 8) that show the figure
WIDTHS = (24, 48, 64)
HIDDEN = 96


class ScorerNet(nn.Module):
    """Images (n, 3, h, w) in [-1, 1] to logits: figures (n, 3, sum of values), background (n, 8), count (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.trunk = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1), nn.GroupNorm(4, first), nn.SiLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1), nn.GroupNorm(8, second), nn.SiLU(),
            nn.Conv2d(second, second, 3, padding=1), nn.GroupNorm(8, second), nn.SiLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1), nn.GroupNorm(8, third), nn.SiLU(),
            nn.Conv2d(third, third, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.figure = nn.Sequential(nn.Linear(third * 8 * 4, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, _LOGITS))
        self.scene = nn.Sequential(nn.Linear(third * 4 * 4, 64), nn.SiLU(), nn.Linear(64, len(BACKGROUNDS) + 2))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.trunk(F.interpolate(pictures, size=(64, 64), mode="area"))
        figures = torch.stack([self.figure(features[..., c : c + 4].flatten(1)) for c in PLACES.values()], dim=1)
        scene = self.scene(F.adaptive_avg_pool2d(features, 4).flatten(1))
        return figures, scene[:, : len(BACKGROUNDS)], scene[:, len(BACKGROUNDS) :]


_SLICES: dict[str, slice] = {}
_LOGITS = 0
for _name in ATTRIBUTES:
    _SLICES[_name] = slice(_LOGITS, _LOGITS + len(VALUES[_name]))
    _LOGITS += len(VALUES[_name])


def figure_labels(figure: Figure) -> list[int]:
    """The figure's attributes as indices into `VALUES`, in the order of `ATTRIBUTES`."""
    return [VALUES[name].index(getattr(figure, name)) for name in ATTRIBUTES]


def attribute_logits(logits: torch.Tensor) -> list[torch.Tensor]:
    """Splits logits (..., sum of values) into one tensor per attribute."""
    return [logits[..., _SLICES[name]] for name in ATTRIBUTES]


@torch.no_grad()
def read_pictures(net: ScorerNet, pictures: torch.Tensor, batch: int = 64) -> list[Scene]:
    """What the net sees in images (n, 3, h, w) in [-1, 1]; one or two figures as it judges."""
    scenes = []
    for chunk in pictures.split(batch):
        figures, backgrounds, counts = net(chunk.float())
        indices = torch.stack([part.argmax(-1) for part in attribute_logits(figures)], dim=-1).tolist()
        for row, background, count in zip(
            indices, backgrounds.argmax(-1).tolist(), counts.argmax(-1).tolist(), strict=True
        ):
            places = row[:1] if count == 0 else row[1:]
            seen = tuple(
                Figure(**{name: VALUES[name][value] for name, value in zip(ATTRIBUTES, place, strict=True)})
                for place in places
            )
            scenes.append(Scene(seen, BACKGROUNDS[background]))
    return scenes


def likeness(figure: Figure, character: Character) -> float:
    """Share of the character's seven attributes that the figure has."""
    return sum(getattr(figure, name) == character.identity[name] for name in IDENTITY) / len(IDENTITY)


@dataclass(frozen=True)
class PairScore:
    """An image of two characters: mean likeness, share of attributes that are the other's, all right or not."""

    likeness: float
    bleeding: float
    complete: bool


def score_pair(scene: Scene, characters: Sequence[Character] = CHARACTERS) -> PairScore:
    """Matches the two figures to the two characters the better way round, then counts right and swapped attributes.

    An image with another number of figures has likeness of its best figure, halved, and no bleeding.
    """
    if len(scene.figures) != 2:
        best = max(likeness(scene.figures[0], character) for character in characters)
        return PairScore(best / 2, 0.0, False)
    order = max(permutations(characters), key=lambda o: sum(map(likeness, scene.figures, o)))
    right = sum(map(likeness, scene.figures, order)) / 2
    swapped = sum(map(likeness, scene.figures, reversed(order))) / 2
    return PairScore(right, swapped, right == 1.0)


def tag_accuracy(wanted: Scene, seen: Scene) -> float:
    """Share of the wanted scene's attributes (every figure's, its background, the number of figures) that are seen."""
    checks = [len(wanted.figures) == len(seen.figures), wanted.background == seen.background]
    for index, figure in enumerate(wanted.figures):
        other = seen.figures[index] if index < len(seen.figures) else None
        checks += [other is not None and getattr(figure, name) == getattr(other, name) for name in ATTRIBUTES]
    return sum(checks) / len(checks)
