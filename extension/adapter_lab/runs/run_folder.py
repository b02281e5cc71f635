"""The folder of a run, its log, and the names of the adapter files it writes."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from adapter_lab import files, jsonio
from adapter_lab.config import RunConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs.processes import identity, living_process

LOG = logging.getLogger("adapter_lab")


class RunFolder:
    """Paths inside a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.events = path / "events.jsonl"
        self.state = path / "state"
        self.pictures = path / "pictures.json"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"
        self.process = path / "process.json"
        self.starting = path / "starting.json"
        self.console = path / "console.txt"

    def has_run(self) -> bool:
        """Whether a run was started here."""
        return self.events.exists() or self.state.exists()

    def claimant(self) -> psutil.Process | None:
        """The living process that claimed the folder."""
        try:
            return living_process(jsonio.read(self.process))
        except (OSError, ValueError):
            return None

    def mark(self) -> dict[str, Any] | None:
        """What a worker noted when it started the run's process: `worker` and `child` (identities) and `at`."""
        try:
            mark = jsonio.table(jsonio.read(self.starting))
            return {**mark, "at": jsonio.typed(float, mark.get("at"))}
        except (OSError, ValueError):
            return None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from running here meanwhile; raises AdapterLabError where one already does."""
        running = self.claimant()
        if running:
            raise AdapterLabError(f"Process {running.pid} is training in {self.path} right now; stop it first.")
        self.process.write_text(json.dumps(identity(psutil.Process())), encoding="utf-8")
        try:
            yield
        finally:
            self.process.unlink(missing_ok=True)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Append what is logged, tracebacks too, to `log.txt`."""
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = LOG.level
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        try:
            yield
        finally:
            LOG.removeHandler(handler)
            LOG.setLevel(level)
            handler.close()


def check_fresh(path: Path) -> None:
    """Raise ConfigError where `path` already holds a run."""
    if RunFolder(path).has_run():
        raise ConfigError(f"{path} already holds a run; resume it, or choose another folder.")


def new_run_folder(config: RunConfig, path: Path | None = None) -> RunFolder:
    """Make the folder of a new run: `path`, or `<runs_folder>/<name>-<date>-<time>`, with a number where that is taken.

    Raises ConfigError where `path` already holds a run.
    """
    if path is not None:
        check_fresh(path)
        path.mkdir(parents=True, exist_ok=True)
        return RunFolder(path)
    base = Path(config.runs_folder).expanduser() / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    base.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            path.mkdir()
            return RunFolder(path)
        except FileExistsError:
            continue
    raise AdapterLabError(f"No free name for a run folder was found beside {base}.")


class AdapterFiles:
    """The adapter files of one run: `<name>-000400.safetensors` and so on, and `<name>.safetensors` at the end."""

    def __init__(self, config: RunConfig, run_folder: Path) -> None:
        self.name = config.name
        given = Path(config.output_folder).expanduser() if config.output_folder else None
        self.folder = given or run_folder / "adapters"
        self.saved: list[str] = []

    def check_unused(self) -> None:
        """Raise ConfigError where another run's files have the names this run would write; they are never replaced."""
        if not self.folder.is_dir():
            return
        pattern = re.compile(re.escape(self.name) + r"(-\d+)?\.safetensors", re.IGNORECASE)
        taken = sorted(entry.name for entry in os.scandir(self.folder) if pattern.fullmatch(entry.name))
        if taken:
            raise ConfigError(
                f"{self.folder} already holds {taken[0]}"
                + (f" and {len(taken) - 1} more files of that name" if taken[1:] else "")
                + f", which this run would replace; choose another run.name than {self.name!r} or another "
                "run.output_folder, or resume the run that wrote them."
            )

    def check_writable(self) -> None:
        """Make the folder and try to write into it; raises ConfigError where that cannot be."""
        try:
            files.make_folder(self.folder)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ConfigError(
                f"No file can be written into {self.folder} ({why}), where this run would save its adapters: choose "
                "another folder in run.output_folder."
            ) from error

    def path(self, step: int | None) -> Path:
        """File for the adapter after `step`; None: the finished one."""
        return self.folder / (f"{self.name}.safetensors" if step is None else f"{self.name}-{step:06d}.safetensors")

    def add(self, path: Path, keep_last: int | Literal["all"]) -> list[Path]:
        """Note a file just saved; delete and return all but the newest `keep_last`, beside the last of the run."""
        if path.name in self.saved:
            self.saved.remove(path.name)
        self.saved.append(path.name)
        numbered = [name for name in self.saved if name != self.path(None).name]
        surplus = [] if isinstance(keep_last, str) else numbered[: max(0, len(numbered) - keep_last)]
        if surplus and surplus[-1] == path.name:  # until there is a finished file, the newest is the last
            surplus.pop()
        removed = []
        for name in surplus:
            self.saved.remove(name)
            (self.folder / name).unlink(missing_ok=True)
            removed.append(self.folder / name)
        return removed

    def paths(self) -> list[Path]:
        """The files saved so far that are kept, oldest first."""
        return [self.folder / name for name in self.saved]


def remove_leftovers(folder: RunFolder, adapters: AdapterFiles) -> None:
    """Delete temporary files that a process of this run left when it was killed while writing."""
    for place in (folder.path, folder.state, folder.samples, adapters.folder):
        files.remove_leftovers(place)
