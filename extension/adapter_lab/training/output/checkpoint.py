"""The full state of a run, from which it goes on as if it had never stopped.

One file per state in `state/`, written under a temporary name, flushed to the disk and renamed, so that a file with a
state's name is always whole. Random numbers need no state of their own: every draw of a step follows from the seed and
the step's number (noise.py), and so does the order of the images (dataset's plan).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab import __version__, files
from adapter_lab.errors import AdapterLabError
from adapter_lab.upgrades import newer

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.pt")


class NewerState(AdapterLabError):
    """A state that a newer release wrote; older ones beside it are not gone on with, as they would replace it."""


@dataclass
class TrainingState:
    """Everything a run is made of after `step` optimiser steps.

    `weights`: the trained parameters as they are, fp32, by name. `optimizer`, `average` (EMA) and `scaler` (fp16's loss
    scale): their state_dicts. `seconds`: training time so far. `adapters`: the files saved so far, oldest first.
    `records`: recent losses and loss per image. `fingerprint`: what must be the same for the state to make sense.
    """

    step: int
    seconds: float
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    adapters: list[str] = field(default_factory=list)
    records: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: TrainingState, keep: int) -> Path:
    """Write `state` into `folder`, then delete all but the newest `keep` states; returns the file.

    Raises AdapterLabError, with the older states untouched, where it cannot be written.
    """
    path = folder / f"step-{state.step:08d}.pt"
    try:
        files.make_folder(folder)
        with files.replacing(path) as file:
            # Not asdict, which would copy every tensor.
            torch.save(
                {"format": FORMAT, "release": __version__, **{f.name: getattr(state, f.name) for f in fields(state)}},
                file,
            )
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        why = getattr(error, "strerror", None) or error
        raise AdapterLabError(
            f"The training state could not be written to {path} ({why}). Earlier states and adapters are untouched: "
            "make room on the disk and resume the run."
        ) from error
    for old in states(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The state files of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_state(path: Path) -> TrainingState:
    """Read one state, never unpickling code; raises AdapterLabError where the file is broken or of another version."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, release = content.pop("format"), content.pop("release", "")
        state = TrainingState(**content) if version <= FORMAT else None
    except Exception as error:  # a damaged zip raises nearly anything
        raise AdapterLabError(f"The training state {path} cannot be read ({type(error).__name__}: {error}).") from error
    if state is None:
        raise NewerState(newer(f"The training state {path}", release))
    return state


def load_latest(folder: Path) -> tuple[TrainingState, list[str]]:
    """The newest readable state and sentences about newer ones that are broken.

    Raises AdapterLabError where there is none.
    """
    complaints: list[str] = []
    for path in reversed(states(folder)):
        try:
            return load_state(path), complaints
        except NewerState:
            raise
        except AdapterLabError as error:
            complaints.append(f"{error} The state before it is used.")
    said = f" ({' '.join(complaints)})" if complaints else ""
    raise AdapterLabError(f"There is no training state to resume from in {folder}{said}; start a new run instead.")
