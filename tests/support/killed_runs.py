"""Runs that are killed with SIGKILL at a chosen moment, each in a process of its own.

`python killed_runs.py CONFIG FOLDER MOMENT [FOLDER MOMENT ...]` forks one process per pair, so that imports are paid
for once, and prints how each ended. A moment is `event:KIND[:STEP]` (right after that event was written),
`replace:PART:N` or `replaced:PART:N` (right before or after the N-th rename to a name with PART in it), `write:PART:N`
(in the middle of writing that file) or `operation:N` (at the N-th torch function called, wherever that is).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from adapter_lab import config_file
from adapter_lab.training.loop import train


def die() -> None:
    """End this process at once, with nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_event(kind: str, step: int) -> Callable[[dict[str, Any]], None]:
    """A listener that kills after the event `kind` (of a step, if not -1)."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == kind and step in (-1, event.get("step")):
            die()

    return listen


def at_rename(part: str, count: int, after: bool) -> None:
    """Kill before or after the `count`-th rename to a name with `part` in it."""
    replace, seen = os.replace, [0]

    def killing(source: Any, target: Any, **options: Any) -> None:
        hit = part in os.path.basename(target)
        seen[0] += hit
        if hit and seen[0] == count and not after:
            die()
        replace(source, target, **options)
        if hit and seen[0] == count:
            die()

    os.replace = killing


def while_writing(part: str, count: int) -> None:
    """Kill when the `count`-th file with `part` in its path is flushed, after cutting what was written in half."""
    fsync, seen = os.fsync, [0]

    def killing(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        hit = part in os.path.basename(path) and os.path.isfile(path)
        seen[0] += hit
        if hit and seen[0] == count:
            os.truncate(path, os.path.getsize(path) // 2)
            die()
        fsync(descriptor)

    os.fsync = killing


class AtOperation(TorchFunctionMode):
    """Kills at the `count`-th torch function: anywhere, yet at the same place on every machine, fast or slow."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left == 0:
            die()
        return function(*args, **(kwargs or {}))


def run(config: str, folder: str, moment: str) -> None:
    """Train until the moment comes."""
    kind, *rest = moment.split(":")
    listener = None
    mode: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if kind == "event":
        listener = on_event(rest[0], int(rest[1]) if rest[1:] else -1)
    elif kind == "operation":
        mode = AtOperation(int(rest[0]))
    elif kind == "write":
        while_writing(rest[0], int(rest[1]))
    else:
        at_rename(rest[0], int(rest[1]), after=kind == "replaced")
    with mode:
        train(config_file.load(config), Path(folder), on_event=listener)


def main(arguments: list[str]) -> None:
    """Fork, wait and report."""
    torch.set_num_threads(1)
    config, *pairs = arguments
    for folder, moment in zip(pairs[::2], pairs[1::2]):
        child = os.fork()
        if child == 0:
            with contextlib.redirect_stdout(sys.stderr):
                run(config, folder, moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(moment, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
