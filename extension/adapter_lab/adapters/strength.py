"""`FILE` or `FILE:STRENGTH`, as commands, settings and the API take adapter files; imports no torch."""

from __future__ import annotations

import math
import re

from adapter_lab.errors import AdapterLabError

# Also what is no strength we take, so that it is not searched for as a part of the file's name.
STRENGTH = re.compile(r"[+-]?(?:\d[\d_]*(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


def file_and_strength(text: str) -> tuple[str, float]:
    """The file and its strength, 1 unless given; a drive letter's colon is part of the file.

    Raises AdapterLabError for a decimal comma and for what is no finite number.
    """
    path = without_strength(text)
    if path == text:
        return text, 1.0
    said = text[len(path) + 1 :]
    if "," in said:
        raise AdapterLabError(f"The strength {said} of {path} is no number here: write {said.replace(',', '.')}.")
    return path, finite_strength(float(said), path)


def finite_strength(strength: float, path: object) -> float:
    """`strength`; raises AdapterLabError, naming the file it was meant for, if it is NaN or infinite."""
    if not math.isfinite(strength):
        raise AdapterLabError(f"The strength {strength} of {path} is not finite: give a number such as 0.8.")
    return strength


def without_strength(text: str) -> str:
    """The file alone."""
    path, colon, strength = text.rpartition(":")
    return path if colon and path and STRENGTH.fullmatch(strength) else text
