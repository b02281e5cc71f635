"""The index of image files already looked at: their content hash and size, so that a second start reads no image.

An entry holds for one path, length and modification time. The hash is what caches and the held-out split go by, so
images may be renamed or moved without being encoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL

from adapter_lab import files, jsonio
from adapter_lab.errors import WriteError
from adapter_lab.training.dataset.images import PictureError, PictureInfo, inspect_picture

_INDEX_NAME = "pictures.jsonl"
_AHEAD = 256
_OLD_NAME = "pictures.json"
# A new Pillow may read what an old one could not.
_VERSION = f"1, Pillow {PIL.__version__}"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Looked:
    """What looking at an image file gave: the SHA-256 of its bytes, and its properties or why it is unusable."""

    digest: str
    info: PictureInfo | None
    reason: str = ""


def look_at(
    paths: Sequence[Path], index_folder: Path | None, threads: int, progress: Progress | None = None
) -> tuple[dict[Path, Looked], str]:
    """Look at every image, those not in the index by decoding them in `threads` threads.

    Returns what was found, and a sentence when the index could not be written (else "").
    """
    index = _read(index_folder)
    found: dict[Path, Looked] = {}
    fresh: list[Path] = []
    infos: dict[PictureInfo, PictureInfo] = {}
    for path in paths:
        known = _known(index.get(_name(path, index_folder)), _stamp(path))
        if known is None:
            fresh.append(path)
        else:
            found[path] = _shared(known, infos)
    remark = ""
    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    try:
        for done, (path, stamp, looked) in enumerate(_looks(pool, fresh), start=1):
            found[path] = _shared(looked, infos)
            if index_folder is not None:
                index[_name(path, index_folder)] = _entry(stamp, looked)
            if progress is not None:
                progress(done, len(fresh))
    finally:  # also when it is broken off: what was looked at need not be looked at again
        pool.shutdown(cancel_futures=True)
        if index_folder is not None and fresh:
            remark = _write(index_folder, index)
    return found, remark


def _looks(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Iterator[tuple[Path, list[int], Looked]]:
    """Each path with what looking at it gave, in order; a few are asked for ahead, since each takes memory."""
    waiting: deque[tuple[Path, Future[tuple[list[int], Looked]]]] = deque()
    for path in paths:
        waiting.append((path, pool.submit(_look, path)))
        if len(waiting) >= _AHEAD:
            first, future = waiting.popleft()
            yield first, *future.result()
    for path, future in waiting:
        yield path, *future.result()


def _shared(looked: Looked, infos: dict[PictureInfo, PictureInfo]) -> Looked:
    """`looked` with one object for all images of the same properties, of which there can be very many."""
    if looked.info is None:
        return looked
    return Looked(looked.digest, infos.setdefault(looked.info, looked.info))


def _entry(stamp: list[int], looked: Looked) -> str:
    """What the index keeps of a file, as JSON: of very many images this takes a tenth of its values' memory."""
    return json.dumps([*stamp, looked.digest, looked.info.to_dict() if looked.info else looked.reason])


def _stamp(path: Path) -> list[int]:
    """Length and modification time, by which a changed file is known; nothing for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _look(path: Path) -> tuple[list[int], Looked]:
    stamp = _stamp(path)
    try:
        digest = file_digest(path)
    except OSError as error:
        reason = f"cannot be opened ({error.strerror}); check that the file is there and may be read"
        return stamp, Looked("", None, reason)
    try:
        return stamp, Looked(digest, inspect_picture(path))
    except PictureError as error:
        return stamp, Looked(digest, None, error.reason)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _known(text: str | None, stamp: list[int]) -> Looked | None:
    """The index entry as a result, when it is whole and for this very file."""
    if text is None:
        return None
    with contextlib.suppress(TypeError, ValueError, KeyError, IndexError):
        size, modified, digest, rest = jsonio.parsed(text)
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


def _read(folder: Path | None) -> dict[str, str]:
    """The index: the JSON of each file's entry by its name; a line of the file has both."""
    if folder is None:
        return {}
    # A missing or broken index only costs the time to look at the images again.
    with (
        contextlib.suppress(OSError, ValueError, TypeError, AttributeError),
        (folder / _INDEX_NAME).open(encoding="utf-8") as lines,
    ):
        if jsonio.parsed(next(lines, "null")) == {"version": _VERSION}:
            return dict(_named(line) for line in lines)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # as releases up to 0.1 wrote it
        content = jsonio.read(folder / _OLD_NAME)
        if content["version"] == _VERSION:
            return {name: json.dumps(entry) for name, entry in content["pictures"].items()}
    return {}


def _named(line: str) -> tuple[str, str]:
    name, _, entry = line.rstrip("\n").partition("\t")
    return jsonio.parsed(name), entry


def _write(folder: Path, index: dict[str, str]) -> str:
    try:
        files.make_folder(folder)
        files.remove_leftovers(folder)
        with files.replacing(folder / _INDEX_NAME, sync=False) as file:
            file.write(json.dumps({"version": _VERSION}).encode() + b"\n")
            file.writelines(f"{json.dumps(name)}\t{entry}\n".encode() for name, entry in index.items())
    except WriteError as error:
        return (
            f"The list of images already looked at could not be written to {folder} ({error.strerror}), so every "
            "start looks at all of them again; make the folder writable or set dataset.cache_folder."
        )
    return ""
