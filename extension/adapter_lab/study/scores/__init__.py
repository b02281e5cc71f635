"""Scores: what images made with an adapter say about it. A scorer is anything with the four parts of `Scorer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value


@dataclass(frozen=True)
class Context:
    """What a scorer may compare images with.

    `base`: images of the same prompts and seeds without an adapter; empty while those are scored themselves.
    """

    study: Study
    folder: Path
    base: Mapping[ScorePrompt, Path]


class Scorer(Protocol):
    """Measures the images of one adapter file."""

    name: str
    # All that its values depend on beside the images, for JSON: values are kept as long as these stay the same.
    settings: Mapping[str, Any]

    @property
    def metrics(self) -> Sequence[str]:
        """What it measures, of `comparing.evidence.METRICS`."""
        ...

    def prompts(self, study: Study) -> list[ScorePrompt]:
        """The images it wants to see of every file."""
        ...

    def score(self, pictures: Sequence[Picture], context: Context) -> list[Value]:
        """Its measurements of the images of one file, those of `prompts` in their order."""
        ...
