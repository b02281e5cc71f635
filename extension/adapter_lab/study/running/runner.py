"""Running a study: prepare once, train every variant and seed, score; go on after any interruption.

What a study has done is in its trainings' own folders, each of which resumes exactly (`training.loop.resume`), and in
`state.json`. So a study killed at any moment and resumed comes to the same numbers: bit for bit on a CPU for budgets of
steps or images. For budgets of minutes, finished trainings stay as they are, and one that was cut off goes on from
its last state with the minutes it had left.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adapter_lab import config_file, files
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import Event, EventLog
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.study.analysis import race
from adapter_lab.study.executors import Ended, Executor, Job
from adapter_lab.study.executors.processes import CONSOLE
from adapter_lab.study.planning.plan import PlannedRun, plan, predict
from adapter_lab.study.record.state import (
    DONE,
    DROPPED,
    FAILED,
    QUEUED,
    RUNNING,
    SKIPPED,
    StudyState,
    load_state,
    save_state,
)
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.record.trainings import TrainingRecord
from adapter_lab.study.spec import checks
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Study, Variant
from adapter_lab.training.interrupt import STOP_FILE, StopRequests

OnEvent = Callable[[Event], None]


class StudyStopped(Exception):
    """A stop was asked for; the message says how."""


def run(
    folder: Path,
    executor: Executor,
    on_event: OnEvent | None = None,
    try_all: bool = False,
    processes: int = 1,
) -> StudyState:
    """Run or go on with the study in `folder`; returns how far it came.

    `try_all`: also train variants that are predicted not to fit into memory. `processes`: devices that accelerate gives
    to each training. Raises AdapterLabError for a plan that cannot be run, or that changes variants which were started.
    """
    study_folder = StudyFolder(folder)
    study = study_file.load(study_folder.plan)
    runs = plan(study, folder)
    with ExitStack() as stack:
        own = RunFolder(folder)
        stack.enter_context(own.claimed())
        files.remove_leftovers(own.path, below=True)
        stack.enter_context(own.logging())
        stop = stack.enter_context(StopRequests(folder))
        log = stack.enter_context(EventLog(own.events, on_event))
        runner = Runner(study, study_folder, runs, executor, stop, log, processes)
        return runner.go(try_all)


class Runner:
    """One session of a study."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        runs: list[PlannedRun],
        executor: Executor,
        stop: StopRequests,
        log: EventLog,
        processes: int = 1,
    ) -> None:
        self.study = study
        self.folder = folder
        self.runs = runs
        self.executor = executor
        self.stop = stop
        self.log = log
        self.processes = processes
        self.state = load_state(folder.state)
        self._plan_bytes = folder.plan.read_bytes()
        self._active: dict[str, Job] = {}
        self._failed: set[str] = set()  # in this session, which does not try again

    def go(self, try_all: bool) -> StudyState:
        """Everything that is left to do."""
        self._take_up_plan()
        try:
            self._predict(try_all)
            self._prepare()
            if self.study.race.enabled:
                self._race()
            else:
                self._train(self._open_runs())
            self._score()
        except StudyStopped as stopped:
            self.log.write("finished", reason=str(stopped))
            return self.state
        except Exception as error:
            self.log.write("failed", message=str(error))
            raise
        self.state.finished = True
        self._save()
        self.log.write("finished", reason="all trainings ended")
        return self.state

    # The plan

    def _take_up_plan(self) -> None:
        """Compare the plan with what was started, and make it the one in effect."""
        changed = [
            planned
            for planned in self.runs
            if self.state.run(planned.name).attempts
            and not planned.is_as_begun(self.state.run(planned.name).fingerprint)
        ]
        if changed:
            raise AdapterLabError(self._change_refused(changed))
        names = {planned.name for planned in self.runs}
        left_out = sorted(name for name, run in self.state.runs.items() if name not in names and run.attempts)
        for planned in self.runs:
            self.state.run(planned.name).fingerprint = planned.fingerprint
        shutil.copyfile(self.folder.plan, self.folder.running)
        self.state.finished = False
        self._save()
        self.log.write("started", folder=self.folder.path, trainings=[planned.name for planned in self.runs])
        if left_out:
            self.log.write("note", message=f"No longer in the plan, but kept: {', '.join(left_out)}.")

    def _change_refused(self, changed: list[PlannedRun]) -> str:
        lines = []
        for variant in dict.fromkeys(planned.variant.name for planned in changed):
            planned = next(planned for planned in changed if planned.variant.name == variant)
            lines.append(f"- {variant}: {_differences(self.folder.run(planned.name), planned)}")
        return (
            f"{self.folder.plan} changes variants that were started; a study compares trainings by one plan. Put them "
            "back as they were, or give changed variants new names, under which they are trained beside the old:\n"
            + "\n".join(lines)
        )

    def _predict(self, try_all: bool) -> None:
        """Predict size and memory of each variant, and mark those that will not fit."""
        available, kind = self.executor.memory_bytes(), self.executor.kind
        first = {planned.variant.name: planned for planned in reversed(self.runs)}
        for name, planned in first.items():
            known = self.state.predicted.get(name, {})
            if known.get("fingerprint") != planned.fingerprint or (available and not known["peak_bytes"]):
                self._tick()
                found = predict(planned.config, kind, memory=available is not None)
                self.state.predicted[name] = {**dataclasses.asdict(found), "fingerprint": planned.fingerprint}
                self._save()
        for planned in self.runs:
            peak = self.state.predicted[planned.variant.name]["peak_bytes"]
            entry = self.state.run(planned.name)
            if available and peak and peak > available and not try_all and entry.state in (QUEUED, SKIPPED):
                entry.state = SKIPPED
                entry.why = (
                    f"It would take {peak / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB are there; --try-all "
                    "trains it nevertheless."
                )
                self.log.write("skipped", training=planned.name, message=entry.why)
            elif entry.state == SKIPPED:
                entry.state, entry.why = QUEUED, ""
        self._save()

    # Trainings

    def _open_runs(self) -> list[PlannedRun]:
        """The trainings that are not at their end; those that failed are tried again."""
        over = (DONE, DROPPED, SKIPPED)
        return [p for p in self.runs if self.state.run(p.name).state not in over and p.name not in self._failed]

    def _prepare(self) -> None:
        if not any(planned.config.dataset.cache_latents == "disk" for planned in self._open_runs()):
            return
        job = Job("preparation", self.folder.path, ("study", "prepare", str(self.folder.path)))
        for ended in self._map([job]):
            if ended.status:
                raise AdapterLabError(
                    f"The images could not be prepared: {_last_words(ended)} ({self.folder.path / CONSOLE} has more)."
                )

    def _train(self, runs: Iterable[PlannedRun], until_point: int = 0, end: int = 0) -> None:
        """Train each up to a checkpoint (0: to its end), and note how it went; `end` is a race's last point."""
        planned = {entry.name: entry for entry in runs}

        def jobs() -> Iterator[Job]:
            for entry in planned.values():
                if not self._is_there(entry, until_point):
                    yield self._job(entry, until_point, end)

        for ended in self._map(jobs()):
            self._note_end(planned[ended.job.name], ended, until_point)

    def _is_there(self, planned: PlannedRun, until_point: int) -> bool:
        """Whether a training has already come to where it should; its state is noted if so."""
        record, entry = TrainingRecord(self.folder.run(planned.name)), self.state.run(planned.name)
        if record.is_complete:
            self._set(planned.name, DONE, "")
            return True
        passed = max((saved.point for saved in record.saved), default=0)
        return 0 < until_point <= passed and record.is_at_rest and entry.state != FAILED

    def _job(self, planned: PlannedRun, until_point: int, end: int) -> Job:
        folder = self.folder.run(planned.name)
        self._wait_for_orphan(folder)
        if not (folder / "config.toml").exists():
            folder.mkdir(parents=True, exist_ok=True)
            config_file.write(planned.config, folder / "config.toml")
        entry = self.state.run(planned.name)
        entry.attempts += 1
        self._set(planned.name, RUNNING, "")
        self.log.write("training", training=planned.name, attempt=entry.attempts)
        arguments = ["resume", str(folder)]
        if until_point:
            arguments += ["--until-point", str(until_point), "--set", _budget(planned, end)]
        return Job(planned.name, folder, tuple(arguments), self.study.general.threads, self.processes)

    def _note_end(self, planned: PlannedRun, ended: Ended, until_point: int) -> None:
        record = TrainingRecord(self.folder.run(planned.name))
        if ended.status:
            why = ended.message or record.failure() or _last_words(ended)
            self._failed.add(planned.name)
            self._set(planned.name, FAILED, why)
            self.log.write("failed", training=planned.name, message=why)
        elif record.is_complete:
            self._set(planned.name, DONE, "")
            self.log.write("done", training=planned.name)
        else:
            reason = str((record.end or {}).get("reason", ""))
            self._set(planned.name, QUEUED, "" if until_point and "saving point" in reason else reason)
            self.log.write("paused", training=planned.name, reason=reason)

    def _wait_for_orphan(self, folder: Path) -> None:
        """Wait until a training of an earlier session that was cut off has ended, which it does by itself."""
        while RunFolder(folder).claimant():
            self._tick()
            time.sleep(0.2)

    # The race

    def _race(self) -> None:
        """Train all to the next checkpoint, compare, drop, and so on."""
        for sentence in checks.remarks(self.study):
            self.log.write("note", message=sentence)
        point = 0
        while True:
            point += 1
            dropped = self.state.dropped()
            alive = self._alive()
            end = race.last_point(self.study, len(alive) + len(dropped), dropped)
            if not alive or point > end:
                return
            self._train([p for p in self._open_runs() if p.variant in alive], point, end)
            if point < end and self.state.decided < point:
                self._score()
                self._drop(point)

    def _alive(self) -> list[Variant]:
        """The variants that are in the race: neither dropped nor skipped nor failed with every seed."""
        out = (DROPPED, SKIPPED, FAILED)
        return [
            variant
            for variant in self.study.variants
            if any(p.variant == variant and self.state.run(p.name).state not in out for p in self.runs)
        ]

    def _drop(self, point: int) -> None:
        decisions = race.decide(self.study, self.folder, self._alive(), point)
        for decision in decisions:
            for planned in self.runs:
                if planned.variant.name == decision.variant:
                    why = f"Dropped at checkpoint {decision.point}: {decision.why}"
                    self.state.run(planned.name).state, self.state.run(planned.name).why = DROPPED, why
            self.log.write("dropped", variant=decision.variant, point=point, message=decision.why)
        self.state.decisions += decisions
        self.state.decided = point
        self._save()

    # Scores

    def _score(self) -> None:
        """Score what was saved and has no scores yet, where scorers are set up."""
        if not self.study.scores:
            return
        job = Job("scores", self.folder.path, ("study", "score", str(self.folder.path)))
        for ended in self._map([job]):
            if ended.status:
                self.log.write("failed", training="scores", message=_last_words(ended))

    # Shared

    def _map(self, jobs: Iterable[Job]) -> Iterator[Ended]:
        """Run jobs; raises StudyStopped after those that ran have saved, where a stop was asked for."""

        def until_stopped() -> Iterator[Job]:
            waiting = iter(jobs)
            # Looked at before a job is made, which notes that it runs.
            while not self.stop.reason() and (job := next(waiting, None)):
                self._active[job.name] = job
                yield job

        for ended in self.executor.map(until_stopped(), self._watch):
            del self._active[ended.job.name]
            yield ended
        if reason := self.stop.reason():
            raise StudyStopped(reason)

    def _watch(self) -> None:
        """Pass a stop on to what runs, and say when the plan was edited meanwhile."""
        if self.stop.reason():
            for job in self._active.values():
                (job.folder / STOP_FILE).touch()
        self._look_at_plan()

    def _tick(self) -> None:
        if reason := self.stop.reason():
            raise StudyStopped(reason)

    def _look_at_plan(self) -> None:
        content = self.folder.plan.read_bytes() if self.folder.plan.exists() else b""
        if content != self._plan_bytes:
            self._plan_bytes = content
            self.log.write(
                "note",
                message=f"{self.folder.plan} was changed while the study runs, which goes on by the plan it began "
                "with. `adapter-lab study resume` takes up new variants; variants that were started stay as they are.",
            )

    def _set(self, name: str, state: str, why: str) -> None:
        entry = self.state.run(name)
        entry.state, entry.why = state, why
        self._save()

    def _save(self) -> None:
        save_state(self.folder.state, self.state)


def _budget(planned: PlannedRun, end: int) -> str:
    """The setting that lets a training go on to the checkpoint `end`."""
    save = planned.config.save
    if save.every_minutes:
        return f"run.minutes={save.every_minutes * end!r}"
    return f"run.steps={save.every_steps * end}"


def _last_words(ended: Ended) -> str:
    """What a process that failed last wrote, or how it was killed."""
    if ended.message:
        return ended.message
    if ended.status < 0:
        return f"Its process was killed by signal {-ended.status}; perhaps memory ran out."
    try:
        lines = (ended.job.folder / CONSOLE).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("adapter-lab: ") if said else f"Its process ended with status {ended.status}."


def _differences(folder: Path, planned: PlannedRun) -> str:
    """Which settings of a started training the plan would change."""
    try:
        before = config_file.load(folder / "config.toml")
    except AdapterLabError:
        return "its configuration is gone"
    found: list[str] = []
    for section in dataclasses.fields(before):
        old, new = getattr(before, section.name), getattr(planned.config, section.name)
        found += [
            f"{section.name}.{entry.name} {_shown(getattr(old, entry.name))} -> {_shown(getattr(new, entry.name))}"
            for entry in dataclasses.fields(old)
            if getattr(old, entry.name) != getattr(new, entry.name)
        ]
    return ", ".join(found) or "the plan"


def _shown(value: Any) -> str:
    return repr(value) if value != "" else "none"
