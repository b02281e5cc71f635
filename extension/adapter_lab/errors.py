"""The one exception family of Adapter Lab: every message is a sentence a person can act on."""

from __future__ import annotations

import unicodedata
from typing import Any

SHOWN = 80  # letters of a value in a sentence


def shown(value: Any) -> str:
    """A value as part of a sentence, cut where it is long."""
    if isinstance(value, str):
        value = value[: SHOWN + 1]  # megabytes need not be quoted first
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def visible(line: str) -> str:
    """A line for a terminal: control characters, which names of files may hold, as \\x1b and the like."""
    if line.isprintable():
        return line
    return "".join(c if unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode() for c in line)


class AdapterLabError(Exception):
    """Something the person can mend: the message says what is wrong, in which file, and what to do."""


class ConfigError(AdapterLabError):
    """A setting is unknown, out of range, contradictory, or ignored by the chosen algorithm."""


class FileFormatError(AdapterLabError):
    """A checkpoint, adapter, image or caption file is not what its name promises."""


class DatasetError(AdapterLabError):
    """A training folder cannot be used as it is."""


class TrainingStopped(AdapterLabError):
    """Training ended early for a reason the person should read, with the last good state kept."""


class WriteError(AdapterLabError, OSError):
    """A file could not be written; `errno` says why, as that of the system's own error does."""

    def __init__(self, message: str, error: OSError | None = None) -> None:
        super().__init__(message)
        if error is not None:
            self.errno, self.strerror, self.filename = error.errno, error.strerror, error.filename

    def __str__(self) -> str:
        return str(self.args[0])
