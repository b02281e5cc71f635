"""Requests to a run that trains: small files in its folder, which the trainer looks for between two steps.

stop          save, then end
save-now      save an adapter and a state
sample-now    make sample images
prompts.json  list of the sample prompts from now on

And one that the next session looks for when it begins:

accept-pictures  go on although images or captions are not as they were
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_lab import files, jsonio
from adapter_lab.errors import AdapterLabError, WriteError

STOP, SAVE, SAMPLE, PROMPTS = "stop", "save-now", "sample-now", "prompts.json"
ACCEPT = "accept-pictures"
REQUESTS = frozenset((STOP, SAVE, SAMPLE, PROMPTS))
LONGEST_PROMPT = 10_000


def request_stop(folder: Path) -> None:
    """Ask the run in `folder` to save and end."""
    _leave(folder, STOP)


def request_save(folder: Path) -> None:
    """Ask the run in `folder` to save an adapter and a state after the present step."""
    _leave(folder, SAVE)


def request_sample(folder: Path) -> None:
    """Ask the run in `folder` for sample images after the present step."""
    _leave(folder, SAMPLE)


def set_prompts(folder: Path, prompts: list[str]) -> None:
    """Give the run in `folder` other sample prompts; raises AdapterLabError where they are not texts."""
    _leave(folder, PROMPTS, json.dumps(checked_prompts(prompts), ensure_ascii=False))


def accept_pictures(folder: Path) -> None:
    """Let the next session of the run in `folder` go on although images or captions have changed."""
    _leave(folder, ACCEPT)


def take_acceptance(folder: Path) -> bool:
    """Whether changed images and captions were accepted; asked once."""
    accepted = (folder / ACCEPT).exists()
    (folder / ACCEPT).unlink(missing_ok=True)
    return accepted


def checked_prompts(prompts: Any) -> list[str]:
    """`prompts` as a list of texts without surrounding space; raises AdapterLabError where it is none."""
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise AdapterLabError("Sample prompts must be a list of texts.")
    if any(len(prompt) > LONGEST_PROMPT for prompt in prompts):
        raise AdapterLabError(f"A sample prompt is longer than {LONGEST_PROMPT} characters; shorten it.")
    return [prompt.strip() for prompt in prompts]


@dataclass(frozen=True)
class Requested:
    """What was asked for since the last look; `prompts` None: they stay, `complaint`: prompts that made no sense."""

    stop: bool = False
    save: bool = False
    sample: bool = False
    prompts: list[str] | None = None
    complaint: str = ""


def present(folder: Path) -> frozenset[str]:
    """The names of the requests that lie in `folder`; raises FileNotFoundError where there is no folder any more.

    One listing of a small folder, since anything less (such as the folder's time) can miss a request.
    """
    return REQUESTS.intersection(os.listdir(folder))


def take(folder: Path, names: frozenset[str]) -> Requested:
    """Carry away the requests `names`, and say what they ask for; that to stop stays, for the tab to see."""
    prompts, complaint = None, ""
    if PROMPTS in names:
        try:
            prompts = checked_prompts(jsonio.read(folder / PROMPTS))
        except (OSError, ValueError, AdapterLabError) as error:
            complaint = f"The new sample prompts could not be read ({error}); the old ones stay."
    for name in names - {STOP}:
        (folder / name).unlink(missing_ok=True)
    return Requested(STOP in names, SAVE in names, SAMPLE in names, prompts, complaint)


def forget(folder: Path) -> None:
    """Remove requests to stop, save or sample that were left by an earlier session."""
    for name in REQUESTS - {PROMPTS}:
        (folder / name).unlink(missing_ok=True)


def _leave(folder: Path, name: str, content: str = "") -> None:
    """Put a request into the folder, whole at once."""
    try:
        files.write_text(folder / name, content, sync=False)
    except WriteError as error:
        raise AdapterLabError(f"{folder} cannot be written to ({error.strerror}), so the run was not told.") from error
