"""An adapter file as `inspect` shows it: what it is, and what each web UI alone makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from adapter_lab.adapters.family import STABLE_DIFFUSION
from adapter_lab.adapters.inspect import describe, text
from adapter_lab.hosts.loading import verdicts

NOT_MEASURED = "What web UIs without Adapter Lab make of it was measured for SD1.5, SD2 and SDXL only."


def described(path: str | os.PathLike[str], modules: bool = False) -> dict[str, Any]:
    """`inspect.describe` of the file at `path`, with `alone`: `verdicts.describe`, or None for other models' files."""
    found = describe(path, modules)
    measured = set(found["families"]) & set(STABLE_DIFFUSION)
    return {**found, "alone": verdicts.describe(path) if measured else None}


def in_words(found: Mapping[str, Any]) -> str:
    """The same for people; a file that could not be read has only its `problem`."""
    if "problem" in found:
        return found["problem"]
    alone = found["alone"]
    return f"{text(dict(found))}\n{NOT_MEASURED if alone is None else verdicts.text(alone, bool(found['broken']))}"
