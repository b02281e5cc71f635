"""The toy world's exact scorer for studies: what an image shows is read back attribute by attribute.

Fidelity is the likeness of the two new characters, alone and together; bleeding the share of the other's attributes in
images of both; agreement the share of what a prompt's words ask for (of characters: pose, expression, background and
number of figures); drift the share of attributes in ordinary images that differ from the base's image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapter_lab.study.scores import Context
from adapter_lab.study.scores.settings import PictureSettings, ToySettings, settings_of
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value

from .evaluate import Prompt, character_prompts, ordinary_prompts
from .scorer import ScorerNet, likeness, read_pictures, score_pair, tag_accuracy
from .toy_file import open_scorer
from .world import CHARACTERS, Scene

FIRST, SECOND = (character.trigger for character in CHARACTERS)
TOGETHER, ONE, TWO = f"{FIRST} and {SECOND}", "one figure", "two figures"
ASKED = "asked of characters"


class ToyScorer:
    """Reads images of the toy world with the net that is shipped inside its checkpoint."""

    name = "toy"
    metrics = ("fidelity", "agreement", "bleeding", "drift")

    def __init__(self, settings: ToySettings) -> None:
        self.settings: Mapping[str, Any] = asdict(settings)
        count, seed = settings.pictures, settings.seed
        kinds = {
            FIRST: character_prompts([0], count, seed),
            SECOND: character_prompts([1], count, seed + 1),
            TOGETHER: character_prompts([0, 1], count, seed + 2),
            ONE: ordinary_prompts(1, count, seed + 3),
            TWO: ordinary_prompts(2, count, seed + 4),
        }
        self._prompts: list[tuple[str, Prompt]] = [(kind, prompt) for kind, group in kinds.items() for prompt in group]

    @cached_property
    def _net(self) -> ScorerNet:
        return open_scorer()

    def prompts(self, study: Study) -> list[ScorePrompt]:
        """The same prompts for every study."""
        return [ScorePrompt(prompt.text, prompt.seed, kind) for kind, prompt in self._prompts]

    def score(self, pictures: Sequence[Picture], context: Context) -> list[Value]:
        """Every metric, from what the net sees."""
        seen = self._read([picture.path for picture in pictures])
        ordinary = [index for index, (kind, _) in enumerate(self._prompts) if kind in (ONE, TWO)]
        before = [context.base.get(pictures[index].prompt) for index in ordinary]
        base = dict(zip(ordinary, self._read([path for path in before if path]))) if all(before) else {}
        values = []
        for index, ((kind, prompt), scene) in enumerate(zip(self._prompts, seen, strict=True)):
            values += _of_picture(kind, prompt, scene)
            if index in base:
                values.append(Value("drift", 1 - tag_accuracy(base[index], scene), prompt.seed, kind))
        return values

    def _read(self, paths: Sequence[Any]) -> list[Scene]:
        pictures = [torch.from_numpy(np.asarray(_rgb(path)).copy()).permute(2, 0, 1) for path in paths]
        return read_pictures(self._net, torch.stack(pictures).float() / 127.5 - 1) if pictures else []


def toy_scorer(name: str, table: Mapping[str, Any], pictures: PictureSettings) -> ToyScorer:
    """The scorer `toy` with a study's settings."""
    return ToyScorer(settings_of(ToySettings, table, name))


def _of_picture(kind: str, prompt: Prompt, seen: Scene) -> list[Value]:
    if kind in (ONE, TWO):
        return [Value("agreement", tag_accuracy(prompt.scene, seen), prompt.seed, kind)]
    asked = Value("agreement", _asked(prompt.scene, seen), prompt.seed, ASKED)
    if kind == TOGETHER:
        pair = score_pair(seen)
        return [
            Value("fidelity", pair.likeness, prompt.seed, kind),
            Value("bleeding", pair.bleeding, prompt.seed, kind),
            asked,
        ]
    alike = likeness(seen.figures[0], CHARACTERS[0 if kind == FIRST else 1])
    return [Value("fidelity", alike, prompt.seed, kind), asked]


def _asked(wanted: Scene, seen: Scene) -> float:
    """Share of what the words of a character's prompt ask for: its trigger stands for the rest."""
    checks = [len(wanted.figures) == len(seen.figures), wanted.background == seen.background]
    for index, figure in enumerate(wanted.figures):
        other = seen.figures[index] if index < len(seen.figures) else None
        checks += [
            other is not None and getattr(figure, name) == getattr(other, name) for name in ("pose", "expression")
        ]
    return sum(checks) / len(checks)


def _rgb(path: Any) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
