"""The adapter files in some folders: what each is, read from its header once, and the runs they are from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapter_lab.adapters import header_cache
from adapter_lab.adapters.family import adapter_families, in_words
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.kind import Kind, kind_of, labels
from adapter_lab.adapters.lineage import Lineage, lineage_of
from adapter_lab.errors import FileFormatError

Signature = tuple[int, int]  # size in bytes, modification time in ns


@dataclass(frozen=True)
class Entry:
    """One adapter file. `families`: bases it may be for; `subject`: what images it was trained on, or ""."""

    path: Path
    kind: Kind
    lineage: Lineage
    families: tuple[str, ...]
    subject: str = ""
    run_id: str = ""  # name of the run folder, of files of Adapter Lab

    @property
    def name(self) -> str:
        """What a prompt calls it: `<lora:NAME:1>`."""
        return self.path.stem

    @property
    def at(self) -> str:
        """How far it was trained, in words: "4000", "epoch 4"; empty where that is not known."""
        if self.lineage.step is not None:
            return str(self.lineage.step)
        return f"epoch {self.lineage.epoch}" if self.lineage.epoch is not None else ""


@dataclass(frozen=True, eq=False)
class Run:
    """The files of one training, the least trained first; a file that does not say how far it was trained is last."""

    name: str
    kind: Kind
    entries: tuple[Entry, ...]

    @property
    def last(self) -> Entry:
        """The file it ended with."""
        return self.entries[-1]

    @property
    def families(self) -> tuple[str, ...]:
        """The base models it may be for."""
        return self.last.families

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.last.path.parent

    def fits(self, family: str | None) -> bool:
        """Whether it may be for this family of base models; None: it is not known which one."""
        return family is None or family in self.families

    def nearest(self, position: int) -> Entry:
        """The file trained as many steps (or epochs) as can be had, the earlier of two."""
        known = [entry for entry in self.entries if entry.lineage.position is not None]
        return min(known, key=lambda entry: abs((entry.lineage.position or 0) - position), default=self.last)

    @property
    def for_base(self) -> str:
        """The base models it may be for, in words."""
        return in_words(self.families)


class Library:
    """The adapter files below some folders. May be used from several threads.

    `remembered`: a file in which what was found is kept for the next process; None: it is not.
    """

    def __init__(self, remembered: Path | None = None) -> None:
        self.reads = 0  # headers read, for tests
        self.remembered = remembered
        self._known: dict[Path, tuple[Signature, Entry | None]] | None = None
        self._lock = threading.Lock()

    def scan(self, folders: Iterable[Path]) -> Shelf:
        """The files as they are on disk now; only those that are new or have changed are read."""
        with self._lock:
            if self._known is None:
                self._known = header_cache.load(self.remembered, Entry) if self.remembered else {}
            before, found = self.reads, dict(_files(folders))
            now = {path: self._entry(self._known.get(path), path, signature) for path, signature in found.items()}
            self._known = now
            if self.reads != before and self.remembered:
                header_cache.save(self.remembered, now)
            return Shelf(
                [entry for _, entry in now.values() if entry is not None],
                [path for path, (_, entry) in now.items() if entry is None],
            )

    def _entry(
        self, known: tuple[Signature, Entry | None] | None, path: Path, signature: Signature
    ) -> tuple[Signature, Entry | None]:
        if known is None or known[0] != signature:
            self.reads += 1
            known = (signature, read_entry(path))
        return known


class Shelf:
    """What a scan found. `labels` has the shortest name of every type in it; `unread`: files that are no adapters."""

    def __init__(self, entries: Sequence[Entry], unread: Sequence[Path] = ()) -> None:
        self.entries = list(entries)
        self.unread = list(unread)
        self.runs = runs_of(entries)

    @cached_property
    def labels(self) -> dict[Kind, str]:
        """The shortest name of every type that is there."""
        return labels(run.kind for run in self.runs)

    @cached_property
    def by_name(self) -> dict[str, list[Entry]]:
        """Files by the name a prompt uses, in lower case."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.name.lower(), []).append(entry)
        return found

    @cached_property
    def _run_of(self) -> dict[Path, Run]:
        return {entry.path: run for run in self.runs for entry in run.entries}

    def why_unread(self, name: str) -> str:
        """What is wrong with a file that a prompt calls so, in a sentence; "" if there is no such among `unread`."""
        path = next((path for path in self.unread if path.stem.lower() == name.lower()), None)
        if path is None:
            return ""
        try:
            AdapterFile.open(path)
        except FileFormatError as error:
            return str(error)
        return f"{path} has been replaced meanwhile: look for the files again."

    def run_of(self, entry: Entry) -> Run:
        """The run a file is from."""
        return self._run_of[entry.path]


def read_entry(path: Path) -> Entry | None:
    """What a file is by its header; None if it is broken or no adapter."""
    try:
        file = AdapterFile.open(path)
    except FileFormatError:
        return None
    metadata = file.metadata
    return Entry(
        path=path,
        kind=kind_of(file),
        lineage=lineage_of(path.stem, metadata),
        families=adapter_families(file),
        subject=metadata.get("ss_dataset_dirs", ""),
        run_id=metadata.get("adapter_lab.run", ""),
    )


def runs_of(entries: Iterable[Entry]) -> list[Run]:
    """Files by the run they are from: of one folder, name and type, and of one session where the trainer wrote one."""
    groups: dict[tuple[Path, str, Kind, str | None], list[Entry]] = {}
    for entry in entries:
        key = (entry.path.parent, entry.lineage.run.lower(), entry.kind, entry.lineage.session)
        groups.setdefault(key, []).append(entry)
    runs: dict[tuple[Path, str, Kind], list[list[Entry]]] = {}
    for (folder, name, kind, _), group in groups.items():
        runs.setdefault((folder, name, kind), []).append(group)
    found = []
    for (_, _, kind), sessions in runs.items():
        for group in _continued(sessions):
            ordered = tuple(sorted(group, key=_order))
            found.append(Run(ordered[-1].lineage.run, kind, ordered))
    return sorted(found, key=lambda run: (run.name.lower(), str(run.folder)))


def _continued(sessions: list[list[Entry]]) -> list[list[Entry]]:
    """Sessions of one run together: one that goes on where another ended began later and was trained longer."""
    merged: list[list[Entry]] = []
    for session in sorted(sessions, key=lambda entries: min(_started(entry) for entry in entries)):
        before = merged[-1] if merged else None
        if before and max(map(_order, before)) < min(map(_order, session)):
            before += session
        else:
            merged.append(list(session))
    return merged


def _started(entry: Entry) -> float:
    return entry.lineage.started_at or 0.0


def _order(entry: Entry) -> tuple[float, int, str]:
    """Files of equal steps: the numbered one before the one called like the run alone."""
    position = entry.lineage.position
    return (float("inf") if position is None else position, -len(entry.name), entry.name)


def _files(folders: Iterable[Path]) -> Iterator[tuple[Path, Signature]]:
    """Every .safetensors file below the folders, links followed, each folder once."""
    visited: set[str] = set()
    waiting = [str(folder) for folder in folders]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            found = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError:
            continue
        for item in found:
            try:
                if item.is_dir():
                    waiting.append(item.path)
                elif item.name.lower().endswith(".safetensors") and not item.name.startswith("."):
                    status = item.stat()
                    yield Path(item.path), (status.st_size, status.st_mtime_ns)
            except OSError:  # gone, or a link to nothing
                continue
