"""What a web UI's console hears from us."""

from __future__ import annotations


def say(text: str) -> None:
    """Print a line that names its author."""
    print(f"[Adapter Lab] {text}", flush=True)
