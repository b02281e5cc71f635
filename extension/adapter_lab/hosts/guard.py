"""Errors of ours end here, not in the web UI's generation."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from adapter_lab.hosts.console import say


@contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Run a block of ours inside a web UI's function: what it raises is printed, and the web UI goes on."""
    try:
        yield
    except Exception:
        say(f"Failed while {doing}; please report this.\n{traceback.format_exc()}")
