"""Images that are drawn for scores, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ScorePrompt:
    """An image to draw: the prompt, the seed of its noise, and what it is about (concepts, or a group of prompts)."""

    text: str
    seed: int
    about: str = ""


@dataclass(frozen=True)
class Picture:
    """An image that was drawn for a prompt."""

    path: Path
    prompt: ScorePrompt


@dataclass(frozen=True)
class Value:
    """One measurement: of a metric, from the image of one seed, about one concept ("" for none in particular)."""

    metric: str
    value: float
    seed: int
    concept: str = ""
