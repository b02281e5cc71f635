"""The best file of a run, by what was recorded while it was trained."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.adapters.library import Entry, Run
from adapter_lab.comparing.studies import events_of, recorded_values, run_folders, saved_by
from adapter_lab.errors import AdapterLabError

# A study's scores, and whether more is better; their sum decides, each in units of its spread over the run's files.
METRICS = {"fidelity": 1.0, "agreement": 1.0, "bleeding": -1.0, "drift": -1.0}


@dataclass
class Records:
    """Where to look: folders that hold run folders, and study folders by name."""

    runs: Sequence[Path] = ()
    studies: Mapping[str, Path] = field(default_factory=dict)

    def best(self, run: Run) -> Entry:
        """The file with the best scores of its study, else the least validation loss; raises AdapterLabError."""
        for values in (self._scores(run), self._validation(run)):
            if values:
                return max(values, key=lambda entry: values[entry])
        raise AdapterLabError(
            f"Nothing was recorded that says which step of {run.name} is best: no scores of a study, and no validation "
            "loss; choose a step, or train with dataset.validation_fraction."
        )

    def _scores(self, run: Run) -> dict[Entry, float]:
        for study in self.studies.values():
            for folder in run_folders(study):
                if _is_of(folder, run):
                    found = _summed(study, folder.name, run)
                    if found:
                        return found
        return {}

    def _validation(self, run: Run) -> dict[Entry, float]:
        """Minus the validation loss last measured before each file was saved."""
        folders = [root / run.last.run_id for root in self.runs if run.last.run_id]
        folders += [folder for study in self.studies.values() for folder in run_folders(study)]
        for folder in folders:
            if not folder.is_dir() or not _is_of(folder, run):
                continue
            losses = {
                event["step"]: event["loss"]
                for event in events_of(folder)
                if event["event"] == "validation" and event.get("loss") is not None
            }
            found = {entry: _before(losses, entry.lineage.step) for entry in run.entries}
            known = {entry: -loss for entry, loss in found.items() if loss is not None}
            if known:
                return known
        return {}


def _is_of(folder: Path, run: Run) -> bool:
    """Whether a run folder is that of these files."""
    names = {path.name for path in saved_by(folder)}
    return run.last.run_id in ("", folder.name) and any(entry.path.name in names for entry in run.entries)


def _before(losses: Mapping[int, float], step: int | None) -> float | None:
    earlier = [measured for measured in losses if step is not None and measured <= step]
    return losses[max(earlier)] if earlier else None


def _summed(study: Path, name: str, run: Run) -> dict[Entry, float]:
    """The scores of each file that has any, all metrics together."""
    means: dict[Entry, dict[str, float]] = {}
    for entry in run.entries:
        values: dict[str, list[float]] = {}
        for value in recorded_values(study, name, entry.lineage.step or 0):
            values.setdefault(str(value["metric"]), []).append(float(value["value"]))
        known = {metric: statistics.fmean(found) for metric, found in values.items() if metric in METRICS}
        if known:
            means[entry] = known
    shared = set.intersection(*(set(found) for found in means.values())) if means else set()
    spreads = {metric: _spread(found[metric] for found in means.values()) for metric in shared}
    return {
        entry: sum(METRICS[metric] * found[metric] / spreads[metric] for metric in shared)
        for entry, found in means.items()
        if shared
    }


def _spread(values: Iterable[float]) -> float:
    return statistics.pstdev(list(values)) or 1.0
