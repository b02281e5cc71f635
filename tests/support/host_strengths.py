"""Strengths that other extensions choose in a real web UI: by block of the model, or by step of the image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tests.support.host_cases import BLOCKS, CASES, EVERY_KIND, modules_at, write
from tests.support.host_measure import PROMPT, Bench
from tests.support.webui import Picture

# Kinds that most web UIs do not load correctly, and one that all do; each has two blocks of its own in the model, so
# that they are measured in one image.
FILES = ("own lokr factor 2 tucker", "own lora dora", "own diag-oft")
PLAIN = "own lora"
PLACES = {case: (number, 5 + number) for number, case in enumerate((*FILES, PLAIN))}
HALVES = {"IN": (1, 2, 4, 5, 7, 8), "OUT": range(3, 12)}  # the blocks of SD1.5 that have names there
STEPS = 4  # that are watched, of one more
TOLERANCE = 1e-4
# The extensions' scripts, with their arguments where they are on: presets, active, and what is for an X/Y/Z plot of its
# own; on, and no plot.
BLOCK_WEIGHTS, STEP_WEIGHTS = "LoRA Block Weight", "Dynamic Lora Weights"
SCRIPTS: dict[str, list[object]] = {
    BLOCK_WEIGHTS: [
        "NONE:" + ",".join("0" * 17),
        True,
        0,
        *("none", "") * 3,
        "",
        "",
        0,
        "",
        20,
        False,
        "",
        False,
        False,
    ],
    STEP_WEIGHTS: [True, False],
}
SWITCHES = {BLOCK_WEIGHTS: 1, STEP_WEIGHTS: 0}  # the argument that turns each on


class Strengths:
    """Adapter files of two blocks each, and what their layers compute with at any strength."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.modules = {
            case: [module for place in places for module in modules_at(EVERY_KIND, place)]
            for case, places in PLACES.items()
        }
        self._made: dict[str, dict[str, torch.Tensor]] = {}
        self._watched: list[dict[str, torch.Tensor]] = []

    def name(self, case: str) -> str:
        """The name of a case's file, which is written once."""
        name = "al-by-block-" + re.sub(r"\W+", "-", case)
        if case not in self._made:
            made = write(self.bench.folder / f"{name}.safetensors", CASES[case], self.bench.base, self.modules[case])
            self._made[case] = {module: one.outputs(self.bench.base.layer(module)) for module, one in made.items()}
            self.bench.web_ui.refresh_adapters()
        return name

    def picture(self, script: str, settings: str, *cases: str) -> Picture:
        """An image with files at the same settings of their tags and one of `SCRIPTS` on; its weights are watched."""
        self._watched = []
        tags = [f"<lora:{self.name(case)}:{settings}>" for case in cases]
        self.bench.web_ui.watch(self.bench.keys([module for case in cases for module in self.modules[case]]))
        there = [name for name in SCRIPTS if self.bench.web_ui.has_script(name)]
        arguments = {name: {"args": _switched(name, name == script)} for name in there}
        return self.bench.web_ui.txt2img(" ".join([PROMPT, *tags]), steps=STEPS + 1, alwayson_scripts=arguments)

    def measured(self, case: str) -> Measured:
        """What the weights were in all steps but the last image's last, told by a file's trained forwards."""
        self._watched = self._watched or self.bench.web_ui.watch([])
        steps = [self.bench.outputs(self.modules[case], step) for step in self._watched]
        assert len(steps) == STEPS
        found = Measured({}, 0.0)
        for module in self.modules[case]:
            base = self.bench.base_outputs[module]
            change = self._made[case][module] - base
            for step, outputs in enumerate(steps):
                moved = outputs[module] - base
                strength = float((moved * change).sum() / change.square().sum())
                found.strengths.setdefault(_part(module, case), [[] for _ in steps])[step].append(strength)
                found.error = max(found.error, float((moved - strength * change).norm() / change.norm()))
        return found


@dataclass
class Measured:
    """The strengths of a file in each step, of every module of a part ("te", "first" and "second" block).

    error: what of a module's change is none of the file's at any strength, relative to the change at strength 1.
    """

    strengths: dict[str, list[list[float]]]
    error: float

    def by_step(self, part: str) -> list[float]:
        """A part's strength in each step, the same in all of its modules."""
        assert all(max(step) - min(step) < TOLERANCE for step in self.strengths[part])
        return [sum(step) / len(step) for step in self.strengths[part]]

    def are(self, wanted: Mapping[str, Sequence[float]]) -> bool:
        """Whether the strengths are these by part and step, one standing for all steps, and the changes the file's."""
        return self.error < TOLERANCE and all(
            abs(found - (asked[step] if len(asked) > 1 else asked[0])) < TOLERANCE
            for part, asked in wanted.items()
            for step, found in enumerate(self.by_step(part))
        )

    def __str__(self) -> str:
        shown = {part: _runs(self.by_step(part)) for part in self.strengths}
        return f"{shown}, error {self.error:.1e}"


def _runs(strengths: Sequence[float]) -> list[float]:
    """Strengths in order, without repeating."""
    rounded = [round(strength, 3) + 0.0 for strength in strengths]
    return [one for step, one in enumerate(rounded) if step == 0 or one != rounded[step - 1]]


def _switched(script: str, on: bool) -> list[object]:
    return [on if place == SWITCHES[script] else value for place, value in enumerate(SCRIPTS[script])]


def _part(module: str, case: str) -> str:
    if module.startswith("lora_te"):
        return "te"
    return "first" if f"_{BLOCKS[PLACES[case][0]]}_" in module else "second"


def weights(te: float, first: float, second: float) -> str:
    """`lbw=` with these strengths for the text encoder and the blocks of the files, none for all others."""
    given = {"BASE": te}
    for places in PLACES.values():
        given |= {_named(BLOCKS[place]): strength for place, strength in zip(places, (first, second))}
    inputs, outputs = ([f"{half}{number:02}" for number in numbers] for half, numbers in HALVES.items())
    return "lbw=" + ",".join(f"{given.get(name, 0):g}" for name in ["BASE", *inputs, "M00", *outputs])


def _named(block: str) -> str:
    half, _, number = block.partition("_blocks_")
    return f"{'IN' if half == 'input' else 'OUT'}{int(number):02}"
