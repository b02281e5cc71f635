"""Writing files whole or not at all, and removing what programs left that were killed while they wrote.

What is being written has a temporary name beside its file, `.<name>.<machine>-<pid>-<number>.part`, or `.spool` where
it holds what a file will be made of; by that name a later program knows whether the writer still lives.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from adapter_lab.errors import AdapterLabError, WriteError

PART, SPOOL = ".part", ".spool"
FULL = (errno.ENOSPC, errno.EDQUOT)
# Bytes of a file's name that its temporary name repeats: names have up to 255 on most systems.
NAME_BYTES = 180
_NUMBERS = itertools.count()
_OURS = re.compile(r"\..+\.(?P<machine>[0-9a-f]{6})-(?P<pid>\d+)-\d+(\.part|\.spool)")
# Names that releases up to 0.1 gave.
_OLDER = re.compile(
    r"\.?.+\.(safetensors|toml|json|npz|html|md|csv)\.\d+\.(part|spool|tmp|partial)"
    r"|\.(stop|save-now|sample-now)\.\d+\.tmp|step-\d{8}\.pt\.tmp|(baseline|\d{6,})-\d+\.part|starting\.tmp"
)
DAY = 24 * 3600.0
CLOCK_SECONDS = 2.0  # by which a process's start and a file's time may differ


@contextmanager
def replacing(path: Path, sync: bool = True, at: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` once the block has ended without an error.

    `sync`: on the disk before it does, so that a power cut leaves the old file or the new one. `at`: another folder of
    the same disk to write in. Raises WriteError with the older file as it was and nothing beside it; other errors of
    the block pass through.
    """
    temporary = temporary_path(path, at=at)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, AdapterLabError) or _of_another_file(error, path, temporary):
            raise
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Replace a file by `content`, as `replacing` does."""
    with replacing(path, sync) as file:
        file.write(content)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Replace a file by `text` in UTF-8 with plain line feeds, as `replacing` does."""
    write_bytes(path, text.encode("utf-8"), sync)


def write_json(path: Path, value: Any, sync: bool = True, indent: int | None = None) -> None:
    """Replace a file by `value` as JSON, as `replacing` does."""
    write_text(path, json.dumps(value, indent=indent), sync)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it where it is not there; raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def write_error(path: Path, error: OSError) -> WriteError:
    """What a person should read where `path` could not be written."""
    if error.errno in FULL:
        return WriteError(f"The disk is full, so {path} could not be written: make room on it and try again.", error)
    why = error.strerror or type(error).__name__
    return WriteError(f"{path} could not be written ({why}): check its folder, or choose another.", error)


def in_words(error: OSError) -> str:
    """What a person should read about an error of the system."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"The disk is full{where}: make room on it and try again."
    return f"{error.strerror or type(error).__name__}{where}: check that the file or folder can be used."


def temporary_path(path: Path, kind: str = PART, at: Path | None = None) -> Path:
    """A name beside `path`, or in the folder `at`, that no other file being written has."""
    name = path.name.encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore")
    return (at or path.parent) / f".{name}.{_machine()}-{os.getpid()}-{next(_NUMBERS)}{kind}"


def _of_another_file(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether what failed was something that the block read, say."""
    return error.filename is not None and Path(error.filename) not in (temporary, path, *path.parents)


@cache
def _machine() -> str:
    """This machine, or container, among those that share a folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; systems that cannot open a folder need nothing."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# What killed programs left


def remove_leftovers(folder: Path, below: bool = False) -> list[Path]:
    """Remove temporary files in `folder` whose writer is gone, with `below` in its subfolders too; returns them."""
    removed = []
    for at, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            path = Path(at, name)
            with suppress(OSError):  # not ours to remove, or gone meanwhile
                if is_leftover(path):
                    path.unlink()
                    removed.append(path)
    return removed


def is_leftover(path: Path) -> bool:
    """Whether a file is temporary and nobody writes it any more; raises OSError where it is gone.

    One of another machine, or of an older release, is taken for such after a day without a change.
    """
    ours = _OURS.fullmatch(path.name)
    if ours is None and _OLDER.fullmatch(path.name) is None:
        return False
    changed = path.stat().st_mtime
    if ours is None or ours["machine"] != _machine():
        return time.time() - changed > DAY
    return not _lives(int(ours["pid"]), changed)


def _lives(pid: int, since: float) -> bool:
    """Whether the process that had this number at the time `since` (seconds since 1970) still runs."""
    import psutil  # which who only writes, such as install.py, does without

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OverflowError):  # somebody else's
        return True
