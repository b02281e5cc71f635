"""More than four thousand bad adapter files, the same in every run: what downloads, crashes and pranks leave behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.loading import corpus_content as content
from tests.loading import corpus_format as files
from tests.loading.corpus_parts import Content

# Kinds of which nothing at all may be applied: the file says itself that it is damaged or no adapter.
REFUSED = frozenset({"truncated", "header", "huge header", "offsets", "pickle", "not a file of tensors"})


@dataclass(frozen=True)
class BadFile:
    """A file to be: its first bytes, and the size it has (the rest is a hole, so that it costs no disk)."""

    kind: str
    name: str
    content: bytes
    size: int

    def write(self, folder: Path) -> Path:
        """Write it under its own name."""
        path = folder / self.name
        with path.open("wb") as file:
            file.write(self.content)
            file.truncate(self.size)
        return path


KINDS: dict[str, Callable[[random.Random], Content]] = {
    "truncated": files.truncated,
    "header": files.header,
    "huge header": files.huge_header,
    "offsets": files.offsets,
    "pickle": files.pickles,
    "not a file of tensors": files.not_tensors,
    "shapes": content.shapes,
    "numbers": content.numbers,
    "dtypes": content.dtypes,
    "missing": content.missing,
    "two algorithms": content.two_algorithms,
    "zero rank": content.zero_rank,
    "alphas": content.alphas,
    "extras": content.extras,
    "metadata": content.metadata,
    "names": content.names,
}


def corpus(kind: str) -> Iterator[BadFile]:
    """Every bad file of a kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = list(KINDS[kind](random.Random(kind)))
    for number, (start, *size) in enumerate(made):
        ending = "ckpt" if kind == "pickle" and number % 4 == 3 else "safetensors"
        yield BadFile(kind, f"{kind.replace(' ', '-')}-{number:04}.{ending}", start, size[0] if size else len(start))


def sample(each: int = 1) -> Iterator[BadFile]:
    """Some files of every kind, spread over it: for what is too slow to be done with all."""
    for kind in KINDS:
        found = list(corpus(kind))
        yield from found[:: -(-len(found) // each)]
