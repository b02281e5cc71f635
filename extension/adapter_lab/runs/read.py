"""Reading the event log of a run while it grows: only what is new, and whole lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapter_lab import jsonio
from adapter_lab.runs.events import Event
from adapter_lab.runs.shapes import is_event

BLOCK = 1 << 20
_NEWLINE = b"\n"


class Tail:
    """Reads a log from `offset` on; every `read` gives the events that were added since, each whole.

    `offset` is always the end of a line. A line that a crash tore is passed over once the next one begins. `restarted`
    counts how often the file was found shorter than before, and so read from its start again.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.restarted = 0
        self._identity: tuple[int, int] | None = None

    def read(self) -> list[Event]:
        """The new events; none where the file is gone."""
        return [event for events in self.blocks() for event in events]

    def blocks(self) -> Iterator[list[Event]]:
        """The new events in lists of some thousands, at least one list: a long log need not be held as a whole."""
        for lines in self._lines():
            self.offset += sum(map(len, lines)) + len(lines)
            yield [event for event in parse_all(lines) if event is not None]
        yield []

    def read_with_offsets(self, limit: int = 0) -> Iterator[tuple[Event, int]]:
        """The new events, each with the offset behind it; at most about `limit` bytes of them where that is given."""
        begin = self.offset
        for lines in self._lines():
            for line, event in zip(lines, parse_all(lines)):
                self.offset += len(line) + 1
                if event is not None:
                    yield event, self.offset
            if limit and self.offset - begin >= limit:
                return

    def _lines(self) -> Iterator[list[bytes]]:
        """The whole lines behind `offset`, some at a time; it must be behind them when the next ones are asked for."""
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            self._check(file)
            while True:
                file.seek(self.offset)
                block = file.read(BLOCK)
                # The end of the last line is not there yet, or the block ends inside a line longer than itself.
                end = block.rfind(_NEWLINE) + 1
                while block and not end:
                    more = file.read(BLOCK)
                    if not more:
                        return
                    block += more
                    end = block.rfind(_NEWLINE) + 1
                if not end:
                    return
                yield block[:end].split(_NEWLINE)[:-1]

    def _check(self, file: Any) -> None:
        """Begin again where the file is another one, or shorter than what was read of it."""
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        if status.st_size < self.offset or (self._identity is not None and identity != self._identity):
            self.offset = 0
            self.restarted += 1
        self._identity = identity


def parse_all(lines: list[bytes]) -> list[Event | None]:
    """The event in each line; None for one that is torn or holds something else."""
    try:
        # As one list they are parsed in half the time.
        values = jsonio.parsed(b"[" + b",".join(lines) + b"]")
    except ValueError:
        values = []
    if len(values) != len(lines):
        values = [_parsed(line) for line in lines]
    return [value if is_event(value) else None for value in values]


def _parsed(line: bytes) -> Any:
    try:
        return jsonio.parsed(line)
    except ValueError:
        return None
