"""The index of picture files already looked at: their content hash and size, so that a second start reads no picture.

An entry holds for one path, length and modification time. The hash is what caches and the held-out split go by, so
pictures may be renamed or moved without being encoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from adapter_lab import files, jsonio
from adapter_lab.errors import WriteError
from adapter_lab.training.dataset.images import PictureError, PictureInfo, inspect_picture

_INDEX_NAME = "pictures.json"
# A new Pillow may read what an old one could not.
_VERSION = f"1, Pillow {PIL.__version__}"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Looked:
    """What looking at a picture file gave: the SHA-256 of its bytes, and its properties or why it is unusable."""

    digest: str
    info: PictureInfo | None
    reason: str = ""


def look_at(
    paths: Sequence[Path], index_folder: Path | None, threads: int, progress: Progress | None = None
) -> tuple[dict[Path, Looked], str]:
    """Look at every picture, those not in the index by decoding them in `threads` threads.

    Returns what was found, and a sentence when the index could not be written (else "").
    """
    index = _read(index_folder)
    found: dict[Path, Looked] = {}
    stamps: dict[Path, list[int]] = {}
    fresh: list[Path] = []
    for path in paths:
        try:
            status = path.stat()
            stamps[path] = [status.st_size, status.st_mtime_ns]
        except OSError:
            stamps[path] = []
        known = _known(index.get(_name(path, index_folder)), stamps[path])
        if known is None:
            fresh.append(path)
        else:
            found[path] = known
    remark = ""
    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    try:
        for done, (path, looked) in enumerate(zip(fresh, pool.map(_look, fresh)), start=1):
            found[path] = looked
            if progress is not None:
                progress(done, len(fresh))
    finally:  # also when it is broken off: what was looked at need not be looked at again
        pool.shutdown(cancel_futures=True)
        if index_folder is not None and fresh:
            seen = [path for path in fresh if path in found]
            index |= {_name(path, index_folder): _entry(stamps[path], found[path]) for path in seen}
            remark = _write(index_folder, index)
    return found, remark


def _entry(stamp: list[int], looked: Looked) -> list[Any]:
    return [*stamp, looked.digest, looked.info.to_dict() if looked.info else looked.reason]


def _look(path: Path) -> Looked:
    try:
        digest = file_digest(path)
    except OSError as error:
        return Looked("", None, f"cannot be opened ({error.strerror}); check that the file is there and may be read")
    try:
        return Looked(digest, inspect_picture(path))
    except PictureError as error:
        return Looked(digest, None, error.reason)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _known(entry: Any, stamp: list[int]) -> Looked | None:
    """The index entry as a result, when it is whole and for this very file."""
    with contextlib.suppress(TypeError, ValueError, KeyError, IndexError):
        size, modified, digest, rest = entry
        if [size, modified] == stamp:
            if isinstance(rest, str):
                return Looked(digest, None, rest)
            info = jsonio.typed(PictureInfo, rest)
            if info.width >= 1 and info.height >= 1:
                return Looked(digest, info)
    return None


def _name(path: Path, folder: Path | None) -> str:
    """The path as the index knows it: relative, so that the folder may be moved as a whole."""
    if folder is None:
        return str(path)
    with contextlib.suppress(ValueError):  # another drive on Windows
        return Path(os.path.relpath(path, folder)).as_posix()
    return path.as_posix()


def _read(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    # A missing or broken index only costs the time to look at the pictures again.
    with contextlib.suppress(OSError, ValueError):
        content = jsonio.read(folder / _INDEX_NAME)
        if (
            isinstance(content, dict)
            and content.get("version") == _VERSION
            and isinstance(content.get("pictures"), dict)
        ):
            return content["pictures"]
    return {}


def _write(folder: Path, index: dict[str, Any]) -> str:
    try:
        files.make_folder(folder)
        files.remove_leftovers(folder)
        files.write_json(folder / _INDEX_NAME, {"version": _VERSION, "pictures": index}, sync=False)
    except WriteError as error:
        return (
            f"The list of pictures already looked at could not be written to {folder} ({error.strerror}), so every "
            "start looks at all of them again; make the folder writable or set dataset.cache_folder."
        )
    return ""
