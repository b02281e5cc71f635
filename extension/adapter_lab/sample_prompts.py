"""Sample prompts with kohya's flags behind them: "a cat --n blurry --w 1024 --h 768 --d 1 --l 7 --s 20"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from adapter_lab.config import PreviewConfig, number_of, type_of

# The setting of the preview that each flag sets for its prompt alone.
FLAGS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "l": "guidance", "s": "steps"}
_FLAG = re.compile(r"\s--(?=[A-Za-z]+(?:\s|$))")
LEAST_SIDE = 8


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt's words, the preview settings that it has of its own, and sentences about flags that are not read."""

    text: str
    own: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_prompt(line: str) -> SamplePrompt:
    """Split a sample prompt from its flags; a flag that is unknown or has no fitting value is left out and said."""
    words, *flags = _FLAG.split(f" {line}")
    own: dict[str, Any] = {}
    problems = []
    for flag in flags:
        letter, _, given = flag.partition(" ")
        name, given = FLAGS.get(letter), given.strip()
        if name is None:
            known = ", ".join(f"--{each}" for each in FLAGS)
            problems.append(f"--{letter} {given}".strip() + f" is left out, since sample prompts have {known} only")
            continue
        value = _value(name, given)
        if value is None:
            problems.append(f"--{letter} {given}".strip() + f" is left out, since it is no {name} that can be used")
        else:
            own[name] = value
    return SamplePrompt(words.strip(), own, tuple(problems))


def prompt_advice(prompts: list[str]) -> list[str]:
    """Sentences about the flags of sample prompts that are not read."""
    return [
        f"Sample prompt {number}: {problem}."
        for number, prompt in enumerate(prompts, start=1)
        for problem in read_prompt(prompt).problems
    ]


def _value(name: str, given: str) -> Any:
    """A flag's value as its setting's kind, None where it is none or outside of the setting's range."""
    setting = next(entry for entry in fields(PreviewConfig) if entry.name == name)
    kind = number_of(type_of(PreviewConfig, name))
    try:
        value = kind(given)
    except (ValueError, OverflowError):
        return None
    if kind is str:
        return value
    least = LEAST_SIDE if name in ("width", "height") else setting.metadata["minimum"]
    most = setting.metadata["maximum"] or (2**63 - 1)
    return value if least <= value <= most else None
