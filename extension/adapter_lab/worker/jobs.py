"""Short jobs in the private environment, such as a report on a folder of images: their result is JSON."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from adapter_lab import jsonio
from adapter_lab.environment.pip import clean_environment
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.processes import end_trees
from adapter_lab.worker.process import apart

OnLine = Callable[[str], None]


class JobCancelled(AdapterLabError):
    """The job was ended because its result is not wanted any more."""


class Jobs:
    """Jobs by kind: a new one of a kind ends the one before, whose result nobody waits for any more."""

    def __init__(self, python: Callable[[], Path]) -> None:
        """`python()` is the private environment's interpreter; it raises AdapterLabError where that is not set up."""
        self._python = python
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}

    def run(self, kind: str, arguments: Sequence[str], on_line: OnLine | None = None) -> Any:
        """The result of `python -m adapter_lab <arguments> --json`; blocks until it is there.

        What the command says meanwhile goes to `on_line` line by line. Raises AdapterLabError with the command's own
        sentence where it fails, and JobCancelled where another job of its kind began or `cancel` was called.
        """
        command = [str(self._python()), "-m", "adapter_lab", *arguments, "--json"]
        with self._lock:
            _end(self._running.pop(kind, None))
            process = self._running[kind] = _start(command)
        said: list[str] = []
        reader = threading.Thread(target=_read, args=(process, said, on_line), daemon=True)
        reader.start()
        assert process.stdout is not None
        printed = process.stdout.read()
        status = process.wait()
        reader.join()
        with self._lock:
            cancelled = self._running.get(kind) is not process
            if not cancelled:
                del self._running[kind]
        if cancelled:
            raise JobCancelled("This was ended, since something newer was asked for.")
        return _result(arguments, status, printed, "".join(said))

    def cancel(self, kind: str = "") -> None:
        """End the job of a kind, or all."""
        with self._lock:
            for name in [kind] if kind else list(self._running):
                _end(self._running.pop(name, None))


def _start(command: list[str]) -> subprocess.Popen[str]:
    # Its input stays open as long as this program lives, and it ends with that: see `adapter_lab.cli`.
    environment = {**clean_environment(), "PYTHONIOENCODING": "utf-8", "ADAPTER_LAB_JOB": "1"}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            **apart(),
        )
    except OSError as error:
        raise AdapterLabError(f"{command[0]} could not be started ({error.strerror}).") from error


def _read(process: subprocess.Popen[str], said: list[str], on_line: OnLine | None) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if on_line is not None:
            on_line(line.rstrip("\n"))


def _end(process: subprocess.Popen[str] | None) -> None:
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        end_trees([psutil.Process(process.pid)])
    process.kill()


def _result(arguments: Sequence[str], status: int, printed: str, said: str) -> Any:
    sentences = re.findall(r"^adapter-lab: (.+(?:\n(?!adapter-lab: ).+)*)", said, re.MULTILINE)
    if status != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        raise AdapterLabError(sentences[-1].strip() if sentences else (lines or ["It ended without a word."])[-1])
    try:
        return jsonio.parsed(printed)
    except ValueError as error:
        raise AdapterLabError(f"`adapter-lab {' '.join(arguments)}` gave no result that can be read.") from error
