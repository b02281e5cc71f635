"""Captions of many images in one file: Hugging Face's `metadata.jsonl` and `metadata.csv`, kohya's `meta*.json`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_lab import jsonio
from adapter_lab.training.dataset.encodings import decode

LARGEST = 256 << 20  # bytes; 100,000 captions take about 20 MB
FIELDS = ("caption", "text", "prompt", "tags")
_KOHYA = re.compile(r"meta.*\.json", re.IGNORECASE)


def caption_in(entry: Any) -> str | None:
    """The caption that a JSON value states: a text, or the first of FIELDS that is there; None where there is none.

    kohya's entries have a caption and tags, which it puts behind it.
    """
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping):
        return None
    found = {name: text for name in FIELDS if (text := _text(entry.get(name)))}
    if "caption" in found and "tags" in found:
        return f"{found['caption']}, {found['tags']}"
    return next(iter(found.values()), None)


def _text(value: Any) -> str:
    """A text, or a list of tags as one."""
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return ", ".join(value)
    return value.strip() if isinstance(value, str) else ""


class StatedCaptions:
    """The captions that files of a source's folders state, by image; `problems` are sentences about such files."""

    def __init__(self) -> None:
        self.by_picture: dict[Path, str] = {}
        self.files: dict[Path, Path] = {}  # the file that states it, by image
        self.unused: dict[Path, None] = {}  # stated about no image that was found
        self.problems: list[str] = []

    def read(self, folder: Path, files: Iterable[Path]) -> list[Path]:
        """Take what the metadata files among a folder's `files` state of it and the folders below; returns them."""
        stems = {path.stem for path in files if path.suffix.lower() != ".json"}
        taken = []
        for path in files:
            name = path.name.lower()
            is_kohya = _KOHYA.fullmatch(name) is not None and path.stem not in stems
            if name not in ("metadata.jsonl", "metadata.csv") and not is_kohya:
                continue
            try:
                entries = dict(self._entries(folder, path))
            except (OSError, ValueError) as error:
                self.problems.append(f"{path.name} cannot be read ({error}), so its captions are not used.")
                continue
            if not entries:
                if not is_kohya:
                    self.problems.append(
                        f"{path.name} states no caption: its lines need `file_name` and one of {', '.join(FIELDS)}."
                    )
                continue
            taken.append(path)
            self.by_picture |= entries
            self.unused |= dict.fromkeys(entries)
            self.files |= dict.fromkeys(entries, path)
        return taken

    def of(self, picture: Path) -> Path | None:
        """The key in `by_picture` of what is stated about an image: its path, or kohya's without the ending."""
        for key in (picture, picture.with_suffix("")):
            if key in self.by_picture:
                self.unused.pop(key, None)
                return key
        return None

    def _entries(self, folder: Path, path: Path) -> Iterator[tuple[Path, str]]:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MB")
        text, _ = decode(path.read_bytes())
        if path.suffix.lower() == ".json":
            yield from _kohya_entries(folder, jsonio.parsed(text))
            return
        rows: Iterable[Any] = (
            csv.DictReader(io.StringIO(text)) if path.suffix.lower() == ".csv" else self._json_lines(path, text)
        )
        for row in rows:
            name = row.get("file_name") if isinstance(row, Mapping) else None
            caption = caption_in(row)
            if isinstance(name, str) and name and caption:
                yield _inside(folder, name), caption

    def _json_lines(self, path: Path, text: str) -> list[Any]:
        """The values of all lines that can be read; what is to be said of the others is added to `problems`."""
        values: list[Any] = []
        broken: list[tuple[int, ValueError]] = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                values += [jsonio.parsed(line)] if line.strip() else []
            except ValueError as error:
                broken.append((number, error))
        if broken and not values:
            raise broken[0][1]
        if broken:
            where, why = broken[0]
            first = f"line {where}: {str(why).replace('line 1 column', 'column')}"
            count = "a line" if len(broken) == 1 else f"{len(broken)} lines"
            self.problems.append(
                f"{path.name} has {count} that cannot be read ({first}), so what it says there is not used."
            )
        return values


def _kohya_entries(folder: Path, content: Any) -> Iterator[tuple[Path, str]]:
    """Entries by path or by the image's name without its ending."""
    for name, entry in content.items() if isinstance(content, dict) else ():
        if isinstance(entry, dict) and (caption := caption_in(entry)):
            yield _inside(folder, str(name)), caption


def _inside(folder: Path, name: str) -> Path:
    """The path that a name means: names of other machines and systems count by their last part."""
    given = Path(name.replace("\\", "/"))
    return folder / given.name if given.is_absolute() or ":" in name or ".." in given.parts else folder / given
