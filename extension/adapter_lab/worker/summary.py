"""A run as the tab shows it: in a line (RunSummary) and in full (RunDetail)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from adapter_lab.runs.findings import findings
from adapter_lab.runs.requests import STOP
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.runs.state import RunState, sample_files
from adapter_lab.worker.process import is_starting

LIVING = ("starting", "running", "stopping")
MOST_WARNINGS = 10
LOG_LINES = 60
LOG_BYTES = 256 * 1024


@dataclass
class RunSummary:
    """A run in a line.

    `state`: queued, starting, running, stopping, finished, stopped, failed or killed. `message` says in a sentence why
    it ended, or what it does before the first step. `total_steps` is 0 while unknown. `loss` is smoothed.
    `memory_bytes`, `peak_bytes`: on a GPU what is allocated there. `tag` is what a prompt says to use it.
    """

    id: str
    folder: str
    name: str
    algo: str
    state: str
    step: int = 0
    total_steps: int = 0
    progress: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    seconds_per_step: float | None = None
    eta_seconds: float | None = None
    loss: float | None = None
    memory_bytes: int | None = None
    peak_bytes: int | None = None
    thumbnail: str | None = None
    message: str = ""
    adapters: list[dict[str, Any]] = field(default_factory=list)
    tag: str | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class RunDetail(RunSummary):
    """A run in full.

    `config`: section -> setting -> value. `samples`: {step, file, prompt, index, baseline}. `pictures`: those learned
    worst first, {image, relative_loss, first, visits, not_learned, path, caption}. `messages`: {time, event, message}
    of notes and warnings. `report`: the dataset's. `growth_rate`: the largest growth of Prodigy's estimate d per step,
    0 for any, None for other optimisers. `offset`: how far the event log was read.
    """

    config: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    pictures_total: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] | None = None
    growth_rate: float | None = None
    preparing: dict[str, Any] | None = None
    saved_state_step: int = 0
    device: str = ""
    log: str = ""
    offset: int = 0


def summarise(folder: RunFolder, state: RunState, name: str, algo: str, queued: bool) -> RunSummary:
    """The summary of a run from its events and what else lies in its folder; `name`, `algo` are its settings'."""
    word, message = present_state(folder, state, queued)
    living = word in LIVING
    adapters = kept_adapters(state)
    series = state.series
    memory = next(iter(series.recent("memory_bytes", 1)), None)
    end = state.end or {}
    return RunSummary(
        id=folder.path.name,
        folder=str(folder.path),
        name=state.name or name,
        algo=state.algo or algo,
        state=word,
        step=state.step,
        total_steps=state.steps_expected(),
        progress=1.0 if word == "finished" else state.progress,
        started_at=state.started_at,
        ended_at=None if living or word == "queued" else end.get("time") or state.last_at,
        seconds_per_step=state.seconds_per_step(),
        eta_seconds=state.eta_seconds() if living else None,
        loss=state.loss,
        memory_bytes=None if memory is None else int(memory),
        peak_bytes=end.get("peak_bytes") or state.peak_bytes,
        thumbnail=_thumbnail(state),
        message=message,
        adapters=adapters,
        tag=f"<lora:{Path(adapters[-1]['path']).stem}:1>" if adapters else None,
        warnings=[*findings(state, ended=not living), *_said(state, "warning")[-MOST_WARNINGS:]],
    )


def detailed(summary: RunSummary, folder: RunFolder, state: RunState, config: dict[str, Any], offset: int) -> RunDetail:
    """The same run in full."""
    there = _names(folder.samples)
    return RunDetail(
        **{entry.name: getattr(summary, entry.name) for entry in fields(RunSummary)},
        config=config,
        samples=[entry for event in state.samples for entry in sample_files(event) if entry["file"] in there],
        prompts=state.prompts if state.prompts is not None else list(config.get("preview", {}).get("prompts", [])),
        pictures=state.pictures,
        pictures_total=state.pictures_total,
        messages=[{key: event.get(key) for key in ("time", "event", "message")} for event in state.messages],
        validation=[{"step": event["step"], "loss": event["loss"]} for event in state.validation],
        report=state.report,
        growth_rate=_growth_rate(state, config),
        preparing=state.preparing,
        saved_state_step=state.state_step,
        device=state.device,
        log=log_tail(folder, LOG_LINES),
        offset=offset,
    )


def _growth_rate(state: RunState, config: dict[str, Any]) -> float | None:
    """As the run's log says it; logs of older releases do not, but their settings have the number."""
    if state.growth_rate is not None:
        return state.growth_rate
    optimizer = config.get("optimizer", {})
    stated = optimizer.get("growth_rate")
    return stated if optimizer.get("name") == "prodigy" and isinstance(stated, float) else None


def present_state(folder: RunFolder, state: RunState, queued: bool) -> tuple[str, str]:
    """The run's state in a word, and a sentence on it."""
    mark = folder.mark()
    claimant = folder.claimant()
    starting = claimant is None and is_starting(mark)
    begun = claimant.create_time() if claimant else (mark or {}).get("at", 0)
    ended = state.end is not None and (state.last_at or 0) > begun
    if (claimant or starting) and not ended:
        if (folder.path / STOP).exists():
            return "stopping", "It saves and ends after the present step."
        return _living(state, starting)
    if queued:
        return "queued", "It waits in the queue."
    # A session that ended before it wrote anything, such as one whose checkpoint is gone.
    if mark is not None and mark["at"] > (state.last_at or 0):
        return _failed_to_start(folder, mark)
    if state.end is not None:
        return END_STATES[state.end["event"]](state.end)
    if state.started_at is None and not folder.process.exists():
        return "stopped", "It was never started."
    return "killed", _killed(state)


def _living(state: RunState, starting: bool) -> tuple[str, str]:
    if starting or not state.phase:
        return "starting", "The training process starts."
    if state.phase == "training":
        return "running", ""
    if state.preparing:
        what = PREPARING.get(state.preparing["what"], state.preparing["what"])
        return "running", f"{what}: {state.preparing['done']} of {state.preparing['total']}."
    return "running", "Loading the base model."


PREPARING = {"scan": "Reading images", "latents": "Encoding images", "captions": "Encoding captions"}


def _finished(end: dict[str, Any]) -> tuple[str, str]:
    reason = str(end.get("reason", ""))
    sentence = f"{reason[:1].upper()}{reason[1:]}." if reason else ""
    return ("stopped" if reason.startswith("stopped") else "finished"), STOPPED_BY.get(reason, sentence)


STOPPED_BY = {"stopped by the stop file": "Stopped on request, after saving."}
END_STATES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "finished": _finished,
    "failed": lambda end: ("failed", str(end.get("message", ""))),
    "stopped": lambda end: ("stopped", str(end.get("message", ""))),
}


def _killed(state: RunState) -> str:
    kept = f"step {state.state_step}, where its last state was saved" if state.state_step else "the start"
    return (
        "Its process ended without a word: it was killed, the system ran out of memory, or the machine was turned off. "
        f"Resume goes on from {kept}."
    )


def _failed_to_start(folder: RunFolder, mark: dict[str, Any]) -> tuple[str, str]:
    """What the process said last before it ended without an event."""
    if not mark.get("child") and not (folder.console.exists() and folder.console.stat().st_mtime > mark["at"]):
        return "killed", "The web UI ended before it had started the training's process; Resume starts it."
    said = re.findall(r"^adapter-lab: (.+)$", read_end(folder.console), re.MULTILINE)
    if said:
        return "failed", str(said[-1])
    lines = [line for line in read_end(folder.console).splitlines() if line.strip()]
    if lines:
        return "failed", f"The training process did not start: {lines[-1].strip()}"
    return "killed", "Its process ended before it could say anything: it was killed, or the machine was turned off."


def kept_adapters(state: RunState) -> list[dict[str, Any]]:
    """The adapter files of the run that are still there, oldest first: path, name, step, bytes."""
    kept = []
    for path, event in state.adapters.items():
        try:
            size = os.stat(path).st_size
        except OSError:
            continue
        kept.append({"path": path, "name": Path(path).name, "step": event.get("step", 0), "bytes": size})
    return sorted(kept, key=lambda entry: entry["step"])


def log_tail(folder: RunFolder, lines: int) -> str:
    """The last lines of the run's log, or of its console where it has no log yet."""
    text = read_end(folder.log) or read_end(folder.console)
    return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""


def read_end(path: Path) -> str:
    """The last LOG_BYTES of a text file; "" where it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _thumbnail(state: RunState) -> str | None:
    shown = [event for event in state.samples if event.get("paths")]
    return Path(shown[-1]["paths"][0]).name if shown else None


def _said(state: RunState, kind: str) -> list[str]:
    return list(dict.fromkeys(str(e.get("message", "")) for e in state.messages if e["event"] == kind))


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
