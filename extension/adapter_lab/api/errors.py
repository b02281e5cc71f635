"""What a request can be refused for, each with its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_lab import files
from adapter_lab.errors import AdapterLabError
from adapter_lab.validation import Problem


class BadRequest(AdapterLabError):
    """A request that cannot be answered as it is; `problems` names the settings to change."""

    status = 400

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class NotLoggedIn(BadRequest):
    """The web UI asks for a name and password, and the request brought none that it knows."""

    status = 401


class Refused(BadRequest):
    """Something that nobody may do from where the request came from."""

    status = 403


class NotFound(BadRequest):
    """What the address names is not there."""

    status = 404


class TooLarge(BadRequest):
    """More than a request of its kind may bring."""

    status = 413


def status_of(error: Exception) -> int:
    """The HTTP status of an error: 4xx for what a person can mend, 507 for a full disk, else 500."""
    if isinstance(error, BadRequest):
        return error.status
    if isinstance(error, OSError) and error.errno in files.FULL:
        return 507
    if isinstance(error, AdapterLabError):
        return 400
    return 500


def sentence(error: Exception) -> str:
    """What a person should read about an error."""
    if isinstance(error, AdapterLabError):
        return str(error)
    if isinstance(error, OSError):
        return files.in_words(error)
    return f"Adapter Lab failed: {type(error).__name__}: {error}. The web UI's console has the details."
