"""Studies as the tab shows them: read from their folders, whoever runs them, without importing what trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.state import RunState
from adapter_lab.study.record.state import (
    DONE,
    DROPPED,
    FAILED,
    QUEUED,
    RUNNING,
    SKIPPED,
    StudyState,
    TrainingState,
    load_state,
)
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Study, Variant, run_name
from adapter_lab.worker.run_index import IndexedRun, RunIndex
from adapter_lab.worker.summary import LIVING, kept_adapters, present_state

KILLED = "killed"  # noted as running, but the study does not live
ENDED = (DONE, DROPPED, FAILED, SKIPPED)
ROUNDING = 2e-3  # of seconds in the log


@dataclass
class StudySummary:
    """A study in a line. `state` as a run's. `ended` of its `trainings` are done, dropped, failed or left out."""

    id: str
    folder: str
    name: str
    state: str
    message: str = ""
    progress: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    eta_seconds: float | None = None
    variants: int = 0
    trainings: int = 0
    ended: int = 0
    failed: int = 0
    unit: str = ""
    amount: float = 0.0
    points: int = 0
    files: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class StudyDetail(StudySummary):
    """A study in full.

    `rows`: a dictionary per variant, as `_row` makes it. `decisions`: what the race dropped: variant, point, time, why.
    `notes`: time and message, what happened beside.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    race: dict[str, Any] | None = None
    base: str = ""
    pictures: str = ""
    prompts: list[str] = field(default_factory=list)
    prompt_seed: int = 1
    scorers: list[str] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Training:
    """A training of a study: what the study noted of it, and what its own log says."""

    name: str
    seed: int
    noted: TrainingState
    living: bool  # whether the study is
    state: RunState = field(default_factory=RunState)
    every_steps: int = 0
    every_minutes: float = 0.0
    total_steps: int = 0

    def read(self, log: IndexedRun) -> None:
        """Take over what its own folder says."""
        self.state = log.state
        if log.config is not None:
            save, run = log.config.save, log.config.run
            self.every_steps, self.every_minutes, self.total_steps = save.every_steps, save.every_minutes, run.steps

    @property
    def word(self) -> str:
        if self.noted.state == RUNNING and not self.living:
            return KILLED
        return self.noted.state

    @property
    def progress(self) -> float:
        return 1.0 if self.word in ENDED else self.state.progress

    @property
    def seconds(self) -> float:
        return math.fsum(self._steps())

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of the whole training, as in the report; what is left is foretold by the last steps instead."""
        steps = self._steps()
        return fmean(steps) if steps else None

    def _steps(self) -> list[float]:
        series = self.state.series
        return series.recent("seconds_per_step", len(series.steps))

    @property
    def point(self) -> int:
        """Checkpoints passed."""
        if self.every_steps:
            return self.state.step // self.every_steps
        return int((self.seconds + ROUNDING) / 60 / self.every_minutes) if self.every_minutes else 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seed": self.seed,
            "state": self.word,
            "why": self.noted.why,
            "step": self.state.step,
            "minutes": self.seconds / 60,
            "progress": self.progress,
            "point": self.point,
            "loss": self.state.loss,
            "adapters": kept_adapters(self.state),
        }


class StudyReader:
    """Reads one study; what its trainings log is read once and from then on only where it grew."""

    def __init__(self, path: Path) -> None:
        self.folder = StudyFolder(path)
        self._runs = RunIndex(self.folder.runs)
        # The plan, the file it was read from with its time, and why there is none: one value, for several threads.
        self._plan: tuple[tuple[Path, int] | None, Study | None, str] = (None, None, "")

    def study(self) -> tuple[Study | None, str]:
        """The plan it went by last, else the one in study.toml; None and why where neither can be understood."""
        for path in (self.folder.running, self.folder.plan):
            try:
                seen = (path, path.stat().st_mtime_ns)
            except OSError:
                continue
            if seen != self._plan[0]:
                try:
                    study = study_file.load(path)
                    large = study.too_large()
                    self._plan = (seen, None if large else study, large)
                except AdapterLabError as error:
                    self._plan = (seen, None, str(error))
            return self._plan[1:]
        return None, f"{self.folder.plan} is gone."

    def detail(self, run: IndexedRun, queued: bool) -> StudyDetail:
        """The study in full; `run` is its own folder."""
        word, message = present_state(run.folder, run.state, queued)
        planned, problem = self.study()
        noted, more = self._noted()
        study, problem = planned or Study(), problem or more
        trainings = self._trainings(study, noted, word in LIVING)
        flat = [training for entries in trainings.values() for training in entries]
        ended = [training for training in flat if training.word in ENDED]
        found = StudyDetail(
            id=run.folder.path.name,
            folder=str(run.folder.path),
            name=planned.name if planned else run.folder.path.name,
            state=word,
            message=problem or (_now(flat, run.state) if word == "running" else message),
            progress=fmean(training.progress for training in flat) if flat else 0.0,
            started_at=run.state.started_at,
            ended_at=None if word in (*LIVING, QUEUED) else (run.state.end or {}).get("time") or run.state.last_at,
            eta_seconds=_eta(study, flat) if word in LIVING else None,
            variants=len(study.variants),
            trainings=len(flat),
            ended=len(ended),
            failed=sum(training.word == FAILED for training in flat),
            unit=study.budget.unit,
            amount=study.budget.amount,
            points=study.budget.points,
            files=sum(len(kept_adapters(training.state)) for training in flat),
            seeds=study.general.seeds,
            race=asdict(study.race) if study.race.enabled else None,
            base=study.shared.base.checkpoint,
            pictures=study.shared.dataset.folder,
            prompts=study.shared.preview.prompts or study.scores.get("pictures", {}).get("prompts", []),
            prompt_seed=study.shared.preview.seed,
            scorers=[name for name in study.scores if name != "pictures"],
            decisions=[asdict(decision) for decision in noted.decisions],
            notes=[{key: event.get(key) for key in ("time", "message")} for event in run.state.messages],
        )
        found.rows = [_row(v, trainings[v.name], noted.predicted.get(v.name, {})) for v in study.variants]
        return found

    def summary(self, run: IndexedRun, queued: bool) -> StudySummary:
        """The study in a line."""
        found = self.detail(run, queued)
        return StudySummary(**{entry.name: getattr(found, entry.name) for entry in fields(StudySummary)})

    def _noted(self) -> tuple[StudyState, str]:
        try:
            return load_state(self.folder.state), ""
        except AdapterLabError as error:
            return StudyState(), str(error)

    def _trainings(self, study: Study, noted: StudyState, living: bool) -> dict[str, list[_Training]]:
        logs = {entry.folder.path.name: entry for entry in self._runs.all()}
        found: dict[str, list[_Training]] = {}
        for variant in study.variants:
            for seed in study.general.seeds:
                name = run_name(variant, seed)
                training = _Training(name, seed, noted.runs.get(name, TrainingState()), living)
                if name in logs:
                    training.read(logs[name])
                found.setdefault(variant.name, []).append(training)
        return found


def _row(variant: Variant, trainings: Sequence[_Training], predicted: dict[str, Any]) -> dict[str, Any]:
    """A variant over its seeds: step, minutes and point of the furthest, the mean loss, the size of the last file."""
    losses = [training.state.loss for training in trainings if training.state.loss is not None]
    speeds = [speed for training in trainings if (speed := training.seconds_per_step) is not None]
    files = [file for training in trainings for file in kept_adapters(training.state)]
    checked = [training.state.validation[-1]["loss"] for training in trainings if training.state.validation]
    return {
        "variant": variant.name,
        "settings": variant.settings,
        "state": state_of([training.word for training in trainings]),
        "why": " ".join(dict.fromkeys(training.noted.why for training in trainings if training.noted.why)),
        "progress": fmean(training.progress for training in trainings),
        "step": max(training.state.step for training in trainings),
        "minutes": max(training.seconds for training in trainings) / 60,
        "point": max(training.point for training in trainings),
        "loss": fmean(losses) if losses else None,
        "validation_loss": fmean(checked) if checked else None,
        "seconds_per_step": fmean(speeds) if speeds else None,
        "peak_bytes": max((t.state.peak_bytes for t in trainings if t.state.peak_bytes), default=None),
        "file_bytes": files[-1]["bytes"] if files else None,
        "predicted": {name: value for name, value in predicted.items() if name != "fingerprint"},
        "trainings": [training.to_dict() for training in trainings],
    }


def state_of(words: Sequence[str]) -> str:
    """The state of a variant whose trainings are in these states."""
    if RUNNING in words:
        return RUNNING
    if KILLED in words:
        return KILLED
    if QUEUED in words and any(word != QUEUED for word in words):
        return RUNNING
    return next((word for word in (QUEUED, DONE, DROPPED, FAILED, SKIPPED) if word in words), QUEUED)


def _now(trainings: Sequence[_Training], log: RunState) -> str:
    """What a study that runs does now."""
    running = [training.name for training in trainings if training.word == RUNNING]
    if running:
        return f"Training {', '.join(running)}."
    if trainings and all(training.word in ENDED for training in trainings):
        return "Scoring what was trained."
    return "Predicting sizes, and encoding the images once for all." if log.started_at else ""


def _eta(study: Study, trainings: Sequence[_Training]) -> float | None:
    """Seconds of training that are left, as many trainings at a time as now; None before anything is known."""
    open_ones = [training for training in trainings if training.word not in ENDED]
    speeds = [speed for training in trainings if (speed := training.state.seconds_per_step()) is not None]
    lengths = [training.total_steps for training in trainings if training.total_steps]
    left = 0.0
    for training in open_ones:
        if study.budget.unit == "minutes":
            left += 60 * study.budget.amount * (1 - training.progress)
            continue
        speed = training.state.seconds_per_step() or (fmean(speeds) if speeds else None)
        steps = training.total_steps or (lengths[0] if lengths else 0)
        if speed is None or not steps:
            return None
        left += speed * max(0, steps - training.state.step)
    return left / max(1, sum(training.word == RUNNING for training in trainings))
