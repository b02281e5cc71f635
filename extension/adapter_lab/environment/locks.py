"""Which lock file a Python and a host's torch call for."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from adapter_lab.errors import AdapterLabError

OLDEST_PYTHON = (3, 10)
Version = tuple[int, int]


@dataclass(frozen=True)
class Lock:
    """A tried set of packages, and the oldest Python and torch it runs with (`megabytes`: what it downloads)."""

    file: str
    python: Version
    torch: Version
    megabytes: int


# Newest first: the first that fits is taken.
LOCKS = (
    Lock("runtime-py311.txt", python=(3, 11), torch=(2, 6), megabytes=80),
    Lock("runtime-py310.txt", python=(3, 10), torch=(2, 4), megabytes=80),
)


@dataclass(frozen=True)
class Choice:
    """The lock to install, and whether the host's torch serves or the environment brings its own."""

    lock: Lock
    share_torch: bool


def major_minor(version: str) -> Version:
    """(2, 6) of "2.6.0+cu124"; (0, 0) where there is no such number."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def choose(python: Version, host_torch: str | None) -> Choice:
    """The newest lock that runs with this Python and the host's torch; with a torch no lock takes, a torch of our own.

    ADAPTER_LAB_LOCK names a lock file to use instead of the newest that fits.
    """
    fitting = [lock for lock in LOCKS if python >= lock.python]
    if not fitting:
        raise AdapterLabError(f"Adapter Lab needs Python 3.10 or newer; this is {python[0]}.{python[1]}.")
    wanted = os.environ.get("ADAPTER_LAB_LOCK", "")
    if wanted:
        fitting = [lock for lock in fitting if lock.file == wanted]
        if not fitting:
            names = ", ".join(lock.file for lock in LOCKS)
            raise AdapterLabError(f"ADAPTER_LAB_LOCK is {wanted!r}; this Python can use: {names}.")
    if host_torch is not None:
        for lock in fitting:
            if major_minor(host_torch) >= lock.torch:
                return Choice(lock, share_torch=True)
    return Choice(fitting[0], share_torch=False)


def pins(path: Path) -> list[str]:
    """Every requirement of the lock at `path` as `name==version; marker`, without the hashes on the lines below it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removesuffix("\\").strip() for line in lines if line[:1].isalnum()]


def pinned(path: Path, name: str) -> str:
    """The version that the lock at `path` pins `name` to."""
    for pin in pins(path):
        package, _, version = pin.partition("==")
        if package == name:
            return version.partition(";")[0].strip()
    raise AdapterLabError(f"{path} does not pin {name}; the extension's files are damaged, install it again.")


def content_key(*paths: Path) -> str:
    """A short hash of the files' contents: the step they feed is done again when it changes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
