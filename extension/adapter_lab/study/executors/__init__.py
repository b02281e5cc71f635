"""Where the trainings of a study run: an executor takes jobs and gives each back when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Tick = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """One process: `python -m adapter_lab ARGUMENTS`, with its output in `folder/console.txt`.

    `threads`: CPU threads, 0 for as many as torch takes. `processes` above 1: one training over several devices,
    started by accelerate.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    threads: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Ended:
    """A job that has ended: its exit status, below 0 the signal that killed it, and a sentence where it never ran."""

    job: Job
    status: int
    message: str = ""


class Executor(Protocol):
    """Runs jobs, as many at once as it has room for."""

    kind: str  # of its devices: "cpu", "cuda" or "mps"

    def memory_bytes(self) -> int | None:
        """Free memory of its smallest GPU; None where it has none or cannot tell."""
        ...

    def map(self, jobs: Iterable[Job], tick: Tick) -> Iterator[Ended]:
        """Run every job and give each back as it ends, in any order.

        A job is taken from `jobs` only when there is room for it, so that later ones may depend on what ended before.
        `tick` is called several times a second. Closing the iterator ends what still runs.
        """
        ...
