"""What the X/Y/Z plot is filled with to compare the files of a run or the runs of a study.

Web UIs take the settings of a script from an image's infotext, each with its own page; so that is the form of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapter_lab.comparing.cell import PREFIX, STEP, TYPE
from adapter_lab.comparing.values import NONE
from adapter_lab.errors import AdapterLabError
from adapter_lab.sample_prompts import read_prompt

MOST_STEPS = 8  # beside the image without an adapter
PROMPTS, SEED = "Prompt S/R", "Seed"  # axes of the web UI's own


@dataclass(frozen=True)
class Plot:
    """`axes`: at most three, each the label of an axis and its values."""

    prompt: str
    seed: int
    axes: tuple[tuple[str, tuple[str, ...]], ...]

    def infotext(self, script: str) -> str:
        """As an image's infotext. script: what the web UI calls its X/Y/Z plot."""
        entries = [f"Seed: {self.seed}", f"Script: {script}"]
        for letter, (label, values) in zip("XYZ", self.axes):
            entries += [f"{letter} Type: {_quoted(label)}", f"{letter} Values: {_quoted(csv_line(values))}"]
        return f"{self.prompt}\n{', '.join(entries)}"

    def to_dict(self, script: str) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "script": script, "infotext": self.infotext(script)}


def run_plot(files: Sequence[tuple[str, int | None]], prompts: Sequence[str], seeds: Sequence[int]) -> Plot:
    """The steps of one run to the right, prompts downwards, seeds as further grids.

    files: name and step of each file of the run. Raises AdapterLabError if there are none.
    """
    if not files:
        raise AdapterLabError("This run has not saved an adapter yet; compare it when it has.")
    steps = sorted({step for _, step in files if step is not None})
    name = max(files, key=lambda file: -1 if file[1] is None else file[1])[0]
    values = (NONE, *map(str, spread(steps))) if steps else (NONE, "last")
    prompt = _one_line(prompts[0]) if prompts else ""
    return _plot(f"{prompt} <lora:{name}:1>".strip(), (PREFIX + STEP, values), prompts, seeds)


def study_plot(runs: Sequence[str], points: int, prompts: Sequence[str], seeds: Sequence[int]) -> Plot:
    """The runs of a study downwards, shares of their budget to the right: equal minutes are unequal steps.

    runs: names of their files without the step. points: how often each was saved. Raises AdapterLabError without runs.
    """
    if not runs:
        raise AdapterLabError("This study has not saved an adapter yet; compare it when it has.")
    shares = [f"{100 * point / points:.4g}%" for point in spread(range(1, max(points, 1) + 1))]
    plot = _plot(_one_line(prompts[0]) if prompts else "", (PREFIX + STEP, tuple(shares)), prompts, seeds)
    first, *others = plot.axes
    return Plot(plot.prompt, plot.seed, (first, (PREFIX + TYPE, (NONE, *runs)), *others[:1]))


def spread(values: Sequence[int]) -> list[int]:
    """At most MOST_STEPS of the values, evenly spread, the first and last among them."""
    if len(values) <= MOST_STEPS:
        return list(values)
    return [values[round(i * (len(values) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def _plot(prompt: str, steps: tuple[str, tuple[str, ...]], prompts: Sequence[str], seeds: Sequence[int]) -> Plot:
    axes = [steps]
    if len(prompts) > 1:
        axes.append((PROMPTS, tuple(map(_one_line, prompts))))
    if len(seeds) > 1:
        axes.append((SEED, tuple(map(str, seeds))))
    return Plot(prompt, seeds[0] if seeds else 1, tuple(axes))


def csv_line(values: Sequence[str]) -> str:
    """Values as the web UI's fields take them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _one_line(prompt: str) -> str:
    """A prompt as the web UI is given it: without flags, which it would take for words."""
    return " ".join(read_prompt(prompt).text.split())


def _quoted(value: str) -> str:
    """A value in an infotext, which JSON's quotes keep together where it has commas."""
    return json.dumps(value, ensure_ascii=False) if any(letter in value for letter in ',:\n"') else value
