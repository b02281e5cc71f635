"""The best file of a run, by what was recorded while it was trained, and which others are as good."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.adapters.library import Entry, Run
from adapter_lab.comparing.evidence import METRICS, Strength, over_pictures, strength
from adapter_lab.comparing.studies import events_of, recorded_values, run_folders, saved_by
from adapter_lab.errors import AdapterLabError

# The measurements of one file: metric -> (picture seed, concept, number) -> value.
Values = Mapping[str, Mapping[tuple[str, str, int], float]]


@dataclass(frozen=True)
class Best:
    """The file that measured best, and the others of its run that cannot be told apart from it.

    `certain` is False where nothing is known about the uncertainty, so that the first may be so by chance.
    """

    entry: Entry
    as_good: Sequence[Entry] = ()
    certain: bool = True

    @property
    def label(self) -> str:
        """Where it was saved, and how far that is to be trusted: "200", "200; 300 as good"."""
        at = self.entry.at or "end"
        if not self.certain:
            return f"{at}, measured once"
        if not self.as_good:
            return at
        others = [entry.at or "end" for entry in self.as_good]
        return f"{at}; {others[0] if len(others) == 1 else f'{len(others)} others'} as good"


@dataclass
class Records:
    """Where to look: folders that hold run folders, and study folders by name."""

    runs: Sequence[Path] = ()
    studies: Mapping[str, Path] = field(default_factory=dict)

    def best(self, run: Run) -> Best:
        """The file with the best scores of its study, else the least validation loss; raises AdapterLabError."""
        if scored := self._scores(run):
            return _by_scores(scored)
        if losses := self._validation(run):
            least = min(losses, key=lambda entry: losses[entry])
            return Best(least, certain=len(losses) == 1)
        raise AdapterLabError(
            f"Nothing was recorded that says which step of {run.name} is best: no scores of a study, and no validation "
            "loss; choose a step, or train with dataset.validation_fraction."
        )

    def _scores(self, run: Run) -> dict[Entry, Values]:
        for study in self.studies.values():
            for folder in run_folders(study):
                if _is_of(folder, run):
                    values = {entry: _values(study, folder.name, entry) for entry in run.entries}
                    if found := {entry: known for entry, known in values.items() if known}:
                        return found
        return {}

    def _validation(self, run: Run) -> dict[Entry, float]:
        """The validation loss last measured before each file was saved."""
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
            known = {entry: loss for entry, loss in found.items() if loss is not None}
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


def _values(study: Path, name: str, entry: Entry) -> Values:
    """The scores of a file, by metric and image."""
    found: dict[str, dict[tuple[str, str, int], float]] = {}
    for value in recorded_values(study, name, entry.lineage.step or 0):
        if (metric := str(value["metric"])) in METRICS:
            pictures = found.setdefault(metric, {})
            seed, concept = str(value.get("seed", "")), str(value.get("concept", ""))
            number = sum(key[:2] == (seed, concept) for key in pictures)
            pictures[seed, concept, number] = float(value["value"])
    return found


def _by_scores(scored: Mapping[Entry, Values]) -> Best:
    """The file whose scores, each in units of its spread over the run's files, sum to most, and those as good."""
    shared = set.intersection(*(set(values) for values in scored.values()))
    means = {
        entry: {metric: statistics.fmean(values[metric].values()) for metric in shared}
        for entry, values in scored.items()
    }
    factors = {
        metric: (1.0 if METRICS[metric] else -1.0) / _spread(found[metric] for found in means.values())
        for metric in shared
    }
    totals = {entry: sum(factors[metric] * found[metric] for metric in shared) for entry, found in means.items()}
    best = max(totals, key=lambda entry: totals[entry])
    verdicts = {
        entry: strength(over_pictures(totals[entry] - totals[best], _pairs(scored[entry], scored[best], factors)))
        for entry in scored
        if entry is not best and shared
    }
    as_good = [entry for entry, found in verdicts.items() if found == Strength.TIED]
    return Best(best, as_good, Strength.UNKNOWN not in verdicts.values())


def _pairs(a: Values, b: Values, factors: Mapping[str, float]) -> list[list[float]]:
    """Differences image by image, weighed, a list for each metric."""
    return [
        [factor * (a[metric][key] - b[metric][key]) for key in a[metric].keys() & b[metric].keys()]
        for metric, factor in factors.items()
    ]


def _spread(values: Iterable[float]) -> float:
    return statistics.pstdev(list(values)) or 1.0
