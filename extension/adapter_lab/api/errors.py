"""What a request can be refused for, each with its HTTP status."""

from __future__ import annotations

import errno
from collections.abc import Sequence

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
    if isinstance(error, AdapterLabError):
        return 400
    return 507 if isinstance(error, OSError) and error.errno in FULL else 500


def sentence(error: Exception) -> str:
    """What a person should read about an error."""
    if isinstance(error, AdapterLabError):
        return str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in FULL:
            return f"The disk is full{where}: make room on it and try again."
        return f"{error.strerror or type(error).__name__}{where}: check that the file or folder can be used."
    return f"Adapter Lab failed: {type(error).__name__}: {error}. The web UI's console has the details."


FULL = (errno.ENOSPC, errno.EDQUOT)
