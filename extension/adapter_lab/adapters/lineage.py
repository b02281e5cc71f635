"""Which run an adapter file is from and how far it was trained, by its metadata, else by its name.

Names end as trainers write them: `x-000400` (Adapter Lab's steps, kohya's epochs), `x-step00000400` (kohya),
`x_000000400` (ai-toolkit), `x_400steps` (traintrain), `x2025-01-31_12-00-00-save-400-2-10` (OneTrainer). The file a
run ends with is called `x` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_lab import jsonio
from adapter_lab.adapters.options import json_object

# Each names what its numbers are. What stands before the match is the run's name.
ENDINGS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"-?\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+$",
        r"[-_ .]?(?P<step>\d+)[-_ ]?steps$",
        r"[-_ .]step[-_ ]?(?P<step>\d+)$",
        r"[-_ .](?:epoch|ep)[-_ ]?(?P<epoch>\d+)$",
        r"_(?P<step>\d{9})$",
        r"-(?P<number>\d{6})$",
    )
)
# Beside a name that was taken, Adapter Lab and traintrain count on.
ANOTHER = re.compile(r"(?<=\d)_\d{1,3}$|(?<=steps)_\d{1,3}$")
MOST = 10**9  # steps; more is no number of steps


@dataclass(frozen=True)
class Lineage:
    """`run` is its name; `session` tells runs of one name apart where the trainer wrote such a thing.

    `step` is in optimiser steps; `epoch` counts from 1. Both None: the file does not say.
    """

    run: str
    session: str | None = None
    step: int | None = None
    epoch: int | None = None
    started_at: float | None = None  # seconds since 1970

    @property
    def position(self) -> int | None:
        """What orders the files of a run: its steps, else its epochs."""
        return self.step if self.step is not None else self.epoch


def lineage_of(stem: str, metadata: Mapping[str, str]) -> Lineage:
    """What a file called `stem` (without its ending) with this metadata says."""
    name, told = split_name(stem)
    info = json_object(metadata.get("training_info"))  # ai-toolkit
    step = _number(metadata.get("ss_steps")) or _number(info.get("step"))
    epoch = _number(metadata.get("ss_epoch"))
    epoch = epoch if epoch is not None else _number(info.get("epoch"))
    if step is None:
        step = told.get("step")
    if epoch is None:
        epoch = told.get("epoch")
    number = told.get("number")
    if step is None and number is not None and number != epoch:
        step = number
    if step is None and not told:  # the file a training of traintrain ends with
        step = _number(metadata.get("ss_max_train_steps"))
    return Lineage(
        run=_run_name(metadata, name),
        session=_session(metadata),
        step=step,
        epoch=epoch,
        started_at=_seconds(metadata.get("ss_training_started_at")),
    )


def split_name(stem: str) -> tuple[str, dict[str, int]]:
    """A file's name as the run's name, and its numbers: "step", "epoch", or "number", which may be either."""
    bare = ANOTHER.sub("", stem)
    for ending in ENDINGS:
        found = ending.search(bare)
        if found and all(int(value) <= MOST for value in found.groupdict().values()):
            return bare[: found.start()].rstrip("-_ ."), {key: int(value) for key, value in found.groupdict().items()}
    return stem, {}


def _run_name(metadata: Mapping[str, str], name: str) -> str:
    """The file's own name without its step: people rename files, and see that name in the web UI."""
    if name:
        return name
    told = metadata.get("ss_output_name") or metadata.get("modelspec.title") or ""
    return split_name(told)[0] or "unnamed"


def _session(metadata: Mapping[str, str]) -> str | None:
    """What all files of one training share, and no other's."""
    own = metadata.get("adapter_lab.run")
    if own:
        return f"adapter-lab {own} {metadata.get('ss_training_started_at', '')}"
    session = metadata.get("ss_session_id")
    return f"session {session}" if session else None


def _number(value: Any) -> int | None:
    """A count in metadata, as a number or a text; None if it is none."""
    if isinstance(value, bool):
        return None
    text = str(value).strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def _seconds(value: str | None) -> float | None:
    try:
        found = jsonio.typed(float, jsonio.parsed(value or "null"))
    except ValueError:
        return None
    return found if 0 < found < 1e11 else None
