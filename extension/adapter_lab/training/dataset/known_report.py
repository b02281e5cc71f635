"""The report on a training folder, kept beside the index, so that a second look at an unchanged folder reads nothing.

A report holds for the names, lengths and times of all files of the folder and for the settings it was made with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL

from adapter_lab import __version__, files, jsonio
from adapter_lab.config import DatasetConfig
from adapter_lab.errors import WriteError
from adapter_lab.training.dataset.index import Progress
from adapter_lab.training.dataset.report import BucketLine, DatasetReport, FolderLine
from adapter_lab.training.dataset.scan import cache_folder, scan
from adapter_lab.training.dataset.sources import MOST_FOLDERS, MOST_WAYS, sources_of, too_many_folders

_NAME = "report.json"
# Goes up whenever a report says something else of the same folder.
_VERSION = 1
_FOLDER = b"\0folder\n"


def report_on(
    config: DatasetConfig,
    resolution: int,
    batch_size: int = 1,
    gradient_accumulation: int = 1,
    progress: Progress | None = None,
) -> DatasetReport:
    """What `scan(...).report(...)` gives; of a folder that has not changed since, the report made then."""
    cache = cache_folder(config, sources_of(config, resolution)[0])
    if cache is None:
        return scan(config, resolution, progress).report(batch_size, gradient_accumulation)
    settings = [_VERSION, __version__, PIL.__version__, asdict(config), resolution, batch_size, gradient_accumulation]
    key = _state_of(config, resolution, cache, settings)
    if (known := _read(cache / _NAME, key)) is not None:
        return known
    report = scan(config, resolution, progress).report(batch_size, gradient_accumulation)
    # Of the state before the scan: a file that changed meanwhile is seen the next time.
    with contextlib.suppress(WriteError):
        files.make_folder(cache)
        files.write_json(cache / _NAME, {"key": key, "report": report.to_dict()}, sync=False)
    return report


def _state_of(config: DatasetConfig, resolution: int, cache: Path, settings: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for root in dict.fromkeys(source.root for source in sources_of(config, resolution)):
        digest.update(f"\0{root}\0".encode("utf-8", "surrogatepass"))
        walked = 0
        for line in _lines(str(root), str(cache), frozenset(), Counter()):
            digest.update(line)
            walked += line.endswith(_FOLDER)
            if walked > MOST_FOLDERS:
                raise too_many_folders(root)
    return digest.hexdigest()


def _lines(folder: str, cache: str, above: frozenset[str], ways: Counter[str]) -> Iterator[bytes]:
    """Path, length and time of every file below, folders behind files; links as `folder` follows them."""
    real = os.path.realpath(folder)
    ways[real] += 1
    if real in above or real == cache or ways[real] > MOST_WAYS:
        return
    inner = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield f"{folder}\0{error.errno}\n".encode("utf-8", "surrogatepass")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                inner.append(entry.path)
                continue
            status = entry.stat()
            stamp = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError as error:
            stamp = str(error.errno)
        yield f"{entry.path}\0{stamp}\n".encode("utf-8", "surrogatepass")
    for path in inner:
        yield path.encode("utf-8", "surrogatepass") + _FOLDER
        yield from _lines(path, cache, above | {real}, ways)


def _read(path: Path, key: str) -> DatasetReport | None:
    """The report that was kept for `key`; None where there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        content = jsonio.read(path)
        if content["key"] == key:
            report = content["report"]
            lines = {
                "folders": [FolderLine(**line) for line in report["folders"]],
                "buckets": [BucketLine(**line) for line in report["buckets"]],
            }
            pairs = {
                name: [tuple(pair) for pair in report[name]]
                for name in ("without_caption", "top_tags", "skipped", "examples")
            }
            return DatasetReport(**{**report, **lines, **pairs})
    return None
