"""`state.json`: how far each training of a study is, and what the race decided; always whole on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_lab import __version__, files, jsonio
from adapter_lab.errors import AdapterLabError
from adapter_lab.upgrades import newer

QUEUED, RUNNING, DONE, FAILED, DROPPED, SKIPPED = "queued", "running", "done", "failed", "dropped", "skipped"
FORMAT = 1


@dataclass
class TrainingState:
    """One training: its state, why in a sentence, how often it was started, and the plan it was started with."""

    state: str = QUEUED
    why: str = ""
    attempts: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class Decision:
    """A variant the race dropped: after which checkpoint, when (seconds since 1970), and why in a sentence."""

    variant: str
    point: int
    time: float
    why: str


@dataclass
class StudyState:
    """All trainings by the name of their run folder, predictions by variant, and the race's decisions in order.

    `decided` is the last checkpoint at which the race compared variants.
    """

    runs: dict[str, TrainingState] = field(default_factory=dict)
    predicted: dict[str, dict[str, Any]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    decided: int = 0
    finished: bool = False

    def run(self, name: str) -> TrainingState:
        """The state of a training, queued if nothing is known of it."""
        return self.runs.setdefault(name, TrainingState())

    def dropped(self) -> dict[str, int]:
        """Variants the race dropped, and after which checkpoint."""
        return {decision.variant: decision.point for decision in self.decisions}


def load_state(path: Path) -> StudyState:
    """The state in a file, a new one where there is no file; raises AdapterLabError where it cannot be understood."""
    try:
        content = jsonio.table(jsonio.read(path))
        version = content.pop("format", None)
        release = str(content.pop("release", ""))
        state = jsonio.typed(StudyState, content) if version == FORMAT else None
    except FileNotFoundError:
        return StudyState()
    except (OSError, ValueError) as error:
        raise AdapterLabError(
            f"{path} cannot be read ({error}); delete it to have it made again from the run folders."
        ) from error
    if state is None:
        raise AdapterLabError(newer(str(path), release))
    return state


def save_state(path: Path, state: StudyState) -> None:
    """Replace the file of the state; raises WriteError."""
    files.write_json(path, {"format": FORMAT, "release": __version__, **asdict(state)}, indent=1)
