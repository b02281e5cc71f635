"""The worker: what the tab and the API ask to start, watch, steer and end runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs import requests
from adapter_lab.runs.changes import change
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import AdapterFiles, RunFolder, new_run_folder
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Study
from adapter_lab.validation import validate, without_ignored
from adapter_lab.worker import process
from adapter_lab.worker.jobs import Jobs, OnLine
from adapter_lab.worker.queries import RunQueries
from adapter_lab.worker.queue import Queue
from adapter_lab.worker.run_index import IndexedRun
from adapter_lab.worker.scheduler import Scheduler
from adapter_lab.worker.starter import Starter
from adapter_lab.worker.summary import LIVING, kept_adapters, present_state

END_SECONDS = 10.0


class Worker(RunQueries):
    """Starts, watches and ends the runs below `root`, one at a time per device, and advances the queue.

    Several workers, in this or other programs, may share a root: what they know is on disk. `before_start` is called
    before a training process is started from here, `after_end` once runs started from here have ended and no other
    one begins. `python` is the private environment's interpreter, by default where install.py made it.
    """

    def __init__(
        self,
        root: Path,
        before_start: Callable[[], None] = lambda: None,
        after_end: Callable[[], None] = lambda: None,
        python: Path | None = None,
    ) -> None:
        super().__init__(root)
        self._starter = Starter(self._index, self._queue, before_start, python)
        self._scheduler = Scheduler(self._index, self._queue, self._starter, after_end)
        self._jobs = Jobs(self._starter.python)

    # Starting

    def submit(self, config: TrainConfig, when: str = "queue") -> str:
        """Make the folder of a new run and start it ("now") or queue it ("queue"); returns its id.

        Raises AdapterLabError where the settings are wrong, training is not set up, there is no room, or a run is
        active on the device and `when` is "now".
        """
        validate(config)
        self._starter.python()
        if config.run.output_folder:
            AdapterFiles(config.run, self.root).check_unused()
        self._starter.check(config.precision.device, when)
        config.run.runs_folder = str(self.root)
        folder = new_run_folder(config.run)
        try:
            config_file.write(config, folder.config)
            self._begin(folder, when)
        except BaseException:
            if not folder.has_run() and not process.is_alive(folder):
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return folder.path.name

    def resume(
        self,
        run_id: str,
        changes: Mapping[str, Any] | None = None,
        when: str = "queue",
        accept_pictures: bool = False,
    ) -> None:
        """Go on with a run that ended, or start one that never was; `changes` such as {"run.steps": 2000}.

        `accept_pictures`: although images or captions were changed. A study goes on by its study.toml, and takes no
        changes.
        """
        run = self._ended(run_id)
        self._starter.python()
        if run.is_study:
            self._starter.check("auto", when)
            self._begin(run.folder, when)
            return
        if run.config is None:
            raise AdapterLabError(run.problem or f"{run.folder.path} has no config.toml, so it cannot be resumed.")
        config = run.config
        if changes:
            config = config_file.load(run.folder.config)
            change(config, changes)
        validate(config)
        self._starter.check(config.precision.device, when)
        if changes:
            config_file.write(config, run.folder.config)
        if accept_pictures:
            requests.accept_pictures(run.folder.path)
        self._begin(run.folder, when)

    def submit_study(self, study: Study, when: str = "queue") -> str:
        """Make the folder of a new study and start it ("now") or queue it ("queue"); returns its id, the study's name.

        Raises AdapterLabError as `submit` does, and where the runs folder has something of that name.
        """
        self._starter.python()
        folder = RunFolder(self.root / study.name)
        self._starter.check("auto", when)
        try:
            folder.path.mkdir()
        except FileExistsError:
            raise AdapterLabError(
                f"The runs folder already has something called {study.name}: give the study another name."
            ) from None
        try:
            study_file.write(study, StudyFolder(folder.path).plan)
            self._begin(folder, when)
        except BaseException:
            if not folder.has_run() and not process.is_alive(folder):
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return study.name

    def _begin(self, folder: RunFolder, when: str) -> None:
        if when == "now":
            self._starter.start_now(folder)
        else:
            self._queue.append(folder.path.name)
        self._scheduler.wake()

    # Steering

    def stop(self, run_id: str, how: str = "save") -> None:
        """End a run: "save" after the present step and saving, "now" at once, losing the steps since its last state."""
        folder = self._living(run_id)
        if how == "save":
            requests.request_stop(folder.path)
            return
        process.kill(folder)
        self._starter.reap()
        self._scheduler.wake()
        state = self._index.get(run_id).state
        if state.end is not None and state.phase == "":
            return  # it ended by itself meanwhile
        with contextlib.suppress(OSError), EventLog(folder.events) as log:
            kept = f"Resume goes on from step {state.state_step}." if state.state_step else "Nothing was saved yet."
            if self._index.get(run_id).is_study:
                kept = "Resume goes on from what its trainings saved."
            log.write("stopped", message=f"Stopped at once, without saving. {kept}")

    def save(self, run_id: str) -> None:
        """Have a run save an adapter and a state now."""
        requests.request_save(self._living(run_id).path)

    def sample(self, run_id: str) -> None:
        """Have a run make sample images now."""
        requests.request_sample(self._living(run_id).path)

    def set_prompts(self, run_id: str, prompts: list[str]) -> None:
        """Give a run other sample prompts; one that does not train uses them when it is resumed."""
        run = self._index.get(run_id)
        if process.is_alive(run.folder):
            requests.set_prompts(run.folder.path, prompts)
        elif run.config is None:
            raise AdapterLabError(run.problem or f"{run.folder.path} has no config.toml.")
        else:
            config = config_file.load(run.folder.config)
            change(config, {"preview.prompts": requests.checked_prompts(prompts)})
            config_file.write(without_ignored(config)[0], run.folder.config)

    def delete(self, run_id: str, adapters: bool = False) -> None:
        """Delete a run's folder; its adapter files only with `adapters`. Refused while it trains."""
        run = self._ended(run_id)
        self.remove(run_id)
        folder = run.folder.path
        own = folder / "adapters"
        try:
            if adapters:
                for entry in kept_adapters(run.state):
                    os.unlink(entry["path"])
                with contextlib.suppress(OSError):  # other files are in it
                    Path(run.state.adapter_folder or own).rmdir()
            if own.is_dir() and not adapters:
                _empty(folder, keep=own.name)
            else:
                shutil.rmtree(folder)
        except OSError as error:
            raise AdapterLabError(f"{error.filename or folder} could not be deleted ({error.strerror}).") from error

    def _living(self, run_id: str) -> RunFolder:
        folder = self._index.get(run_id).folder
        if not process.is_alive(folder):
            raise AdapterLabError(f"{run_id} does not train any more.")
        return folder

    def _ended(self, run_id: str) -> IndexedRun:
        run = self._index.get(run_id)
        patience = time.monotonic() + END_SECONDS
        # The last event comes before the process has given back all memory.
        while present_state(run.folder, run.state, False)[0] not in LIVING and time.monotonic() < patience:
            self._starter.reap()
            if not process.is_alive(run.folder):
                return run
            time.sleep(0.1)
            run = self._index.get(run_id)
        raise AdapterLabError(f"{run_id} is training right now; stop it first.")

    # The queue

    def queue(self) -> Queue:
        """What waits, whether it is paused, and what is active."""
        queue = self._queue.read()
        queue.active = [run.folder.path.name for run in self._index.living()]
        queue.message = self._scheduler.complaint or queue.message
        return queue

    def reorder(self, order: Sequence[str]) -> None:
        """Put the waiting runs into another order; those not named follow as they were."""
        with self._queue.change() as queue:
            named = [entry for entry in dict.fromkeys(order) if entry in queue.order]
            queue.order = named + [entry for entry in queue.order if entry not in named]

    def pause(self, paused: bool) -> None:
        """Start no run from the queue until it is told to go on; a run that trains is not touched."""
        with self._queue.change() as queue:
            queue.paused, queue.message = bool(paused), ""
        self._scheduler.complaint = ""
        self._scheduler.wake()

    def remove(self, run_id: str) -> None:
        """Take a run out of the queue; its folder stays."""
        self._queue.remove(run_id)

    def advance(self) -> str:
        """Start the next run of the queue whose device is free; returns its id, "" if none was started."""
        return self._scheduler.advance()

    # Jobs, and the background

    def external(self, kind: str, argv: Sequence[str], on_line: OnLine | None = None) -> Any:
        """The JSON result of an `adapter-lab` command; see Jobs.run."""
        return self._jobs.run(kind, argv, on_line)

    def cancel(self, kind: str = "") -> None:
        """End the job of a kind, or all."""
        self._jobs.cancel(kind)

    def start_background(self) -> None:
        """Advance the queue from now on in a thread of its own."""
        self._scheduler.begin()

    def close(self) -> None:
        """End the thread and the jobs; runs go on."""
        self._scheduler.end()
        self._jobs.cancel()


def _empty(folder: Path, keep: str) -> None:
    for entry in folder.iterdir():
        if entry.name == keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
