"""The training process of a run: started on its own, found again by what it left on disk, and ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from adapter_lab import files
from adapter_lab.environment.pip import clean_environment
from adapter_lab.errors import AdapterLabError, WriteError
from adapter_lab.runs.processes import end_trees, identity, living_process
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.study.record.study_folder import StudyFolder

# A process that was started but not yet noted claims its folder within this time, or never will.
GRACE_SECONDS = 60.0
END_SECONDS = 10.0


def announce(folder: RunFolder) -> None:
    """Note that this program is about to start the run's training process; raises AdapterLabError on a full disk."""
    _write_mark(folder, {"worker": identity(psutil.Process()), "child": None, "at": time.time()})


def start(folder: RunFolder, python: Path) -> subprocess.Popen[bytes]:
    """Start or go on with the run in a process of its own, whose output goes to `console.txt`.

    It belongs to no terminal and to no group of ours, so that it goes on whatever happens to this program.
    """
    return _spawn(folder, [str(python), "-m", "adapter_lab", *_arguments(folder)])


def _arguments(folder: RunFolder) -> list[str]:
    if StudyFolder(folder.path).plan.is_file():
        return ["study", "resume", str(folder.path)]  # begins it too
    if folder.has_run():
        return ["resume", str(folder.path)]
    return ["train", "--config", str(folder.config), "--run-folder", str(folder.path)]


def _spawn(folder: RunFolder, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**clean_environment(), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        with folder.console.open("ab") as console:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, **apart()
            )
    except OSError as error:
        raise AdapterLabError(f"The training process could not be started: {error}.") from error
    with contextlib.suppress(psutil.Error, AdapterLabError):  # it has ended already, or claims its folder by itself
        mark = {"worker": identity(psutil.Process()), "child": identity(psutil.Process(child.pid)), "at": time.time()}
        _write_mark(folder, mark)
    return child


def apart() -> dict[str, Any]:
    """Popen's options for a process of its own group and without a window."""
    if os.name == "nt":
        flags = ("CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW")
        return {"creationflags": sum(getattr(subprocess, flag) for flag in flags)}
    return {"start_new_session": True}


def is_starting(mark: dict[str, Any] | None) -> bool:
    """Whether the process noted in `mark` lives, or may still appear."""
    if mark is None:
        return False
    if mark.get("child"):
        return living_process(mark["child"]) is not None
    return living_process(mark.get("worker")) is not None or 0 <= time.time() - mark["at"] < GRACE_SECONDS


def is_alive(folder: RunFolder) -> bool:
    """Whether the run has a process, or is about to get one."""
    return folder.claimant() is not None or is_starting(folder.mark())


def kill(folder: RunFolder) -> None:
    """End the run's process at once with all it started; raises AdapterLabError where something of it survives."""
    mark = folder.mark()
    found = [folder.claimant(), living_process((mark or {}).get("child"))]
    left = end_trees((process for process in found if process is not None), END_SECONDS)
    if left:
        raise AdapterLabError(f"Process {left[0].pid} of {folder.path.name} could not be ended; end it by hand.")
    folder.starting.unlink(missing_ok=True)
    folder.process.unlink(missing_ok=True)


def _write_mark(folder: RunFolder, mark: dict[str, Any]) -> None:
    try:
        files.write_json(folder.starting, mark, sync=False)
    except WriteError as error:
        raise AdapterLabError(
            f"{folder.path} cannot be written to ({error.strerror}); make room, or choose another runs folder."
        ) from error
