"""What a library found out about files, kept over restarts: reading the headers of hundreds takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_lab import __version__, files, jsonio
from adapter_lab.adapters.kind import Kind
from adapter_lab.adapters.lineage import Lineage
from adapter_lab.errors import WriteError

if TYPE_CHECKING:
    from adapter_lab.adapters.library import Entry, Signature

# Path, size, modification time, and what was found.
FileRow = tuple[str, int, int, dict[str, Any] | None]
# Raised when the same header comes to mean something else.
FORMAT = f"2 {__version__}"


def load(path: Path, make: type[Entry]) -> dict[Path, tuple[Signature, Entry | None]]:
    """Files by path as they were known; nothing where that cannot be read or is of another version."""
    try:
        found = jsonio.table(jsonio.read(path))
        if found["format"] != FORMAT:
            return {}
        return {
            Path(name): ((size, time), _entry(Path(name), known, make))
            for name, size, time, known in jsonio.typed(list[FileRow], found["files"])
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save(path: Path, known: Mapping[Path, tuple[Signature, Entry | None]]) -> None:
    """Write it, whole or not at all; a folder that cannot be written to only costs the time of the next reading."""
    entries = [
        [str(name), *signature, None if entry is None else {**asdict(entry), "path": None}]
        for name, (signature, entry) in known.items()
    ]
    with suppress(WriteError):
        files.make_folder(path.parent)
        files.write_json(path, {"format": FORMAT, "files": entries}, sync=False)


def _entry(path: Path, known: dict[str, Any] | None, make: type[Entry]) -> Entry | None:
    if known is None:
        return None
    kinds: dict[str, Any] = {"kind": Kind, "lineage": Lineage, "families": tuple[str, ...], "path": None}
    parts = {name: jsonio.typed(kinds.get(name, str), value, name) for name, value in known.items()}
    return make(**{**parts, "path": path})
