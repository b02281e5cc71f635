"""Facts about a study that both the page and the Markdown report state."""

from __future__ import annotations

import time
from typing import Any

from adapter_lab.comparing.evidence import Strength, interval, strength
from adapter_lab.config import default_of, settings
from adapter_lab.study.analysis.comparison import BETTER
from adapter_lab.study.analysis.contrasts import Contrast
from adapter_lab.study.analysis.quality import Ranked
from adapter_lab.study.analysis.results import ENDED, Decision, Results
from adapter_lab.study.spec.definition import Study

READING = (
    "A value ± its standard error: over training seeds where a variant was trained with several, else over the "
    "images. Two variants are told apart when zero lies outside the 95 % interval of their difference, taken seed by "
    "seed (Student's t; the spread of differences is that over all variants, or the pair's own where that is larger). "
    "Each variant is compared at its best step, and picking the best of many steps flatters all of them."
)
CONTRASTED = (
    "Pairs of variants that differ in one setting, averaged over the later half of the checkpoints that both have; "
    "changes with their 95 % interval."
)


def facts(results: Results) -> list[tuple[str, str]]:
    """What was studied: (name, value)."""
    study, budget = results.study, results.study.budget
    seeds = study.general.seeds
    ended = sum(variant.state in ENDED for variant in results.variants)
    found = [
        ("Base model", study.shared.base.checkpoint or "–"),
        ("Training images", study.shared.dataset.folder or "–"),
        ("Budget", f"{budget.in_words(budget.amount)} per training, {budget.points} checkpoints"),
        ("Trainings", f"{len(results.variants)} variants × {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'} "
                      f"({', '.join(map(str, seeds))})"),
        ("State", f"{results.state}; {ended} of {len(results.variants)} variants have ended"),
        ("Scorers", ", ".join(study.scores) or "none"),
    ]  # fmt: skip
    if budget.parameters:
        found.insert(3, ("Size", f"all of about {budget.parameters:,} parameters (± {budget.tolerance:.0%})"))
    return found


def variant_settings(values: dict[str, Any]) -> str:
    """A variant's settings on one line: "network.dim = 16, network.alpha = 8"."""
    return ", ".join(f"{path} = {value!r}" for path, value in values.items()) or "as all share"


def shared_settings(study: Study) -> list[tuple[str, str]]:
    """What all variants share and what differs from the defaults: (path, value)."""
    found = []
    for section, _, entry in settings():
        value = getattr(getattr(study.shared, section), entry.name)
        if value != default_of(entry):
            found.append((f"{section}.{entry.name}", str(value)))
    return found


def decision_text(decision: Decision) -> str:
    """A decision of the race, with its time."""
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(decision.time))
    return f"{decision.variant}, after checkpoint {decision.point} ({moment}): {decision.why}"


def contrast_text(contrast: Contrast) -> list[tuple[str, str, str]]:
    """Per metric of a contrast: (metric, change with its interval, verdict)."""
    found = []
    for metric, change in contrast.changes.items():
        side = "better" if (change.value > 0) == BETTER[metric] else "worse"
        verdicts = {
            Strength.UNKNOWN: "unknown: measured once",
            Strength.TIED: "not told apart",
            Strength.FILES: f"{side} in these files; trained once",
            Strength.TRAININGS: side,
        }
        found.append((metric, interval(change), verdicts[strength(change)]))
    return found


def rank_text(entry: Ranked) -> str:
    """The verdict on a variant's place in the order."""
    if entry.to_best is None:
        return "measured highest"
    return {
        Strength.UNKNOWN: "nothing is known about the uncertainty",
        Strength.TIED: "cannot be told apart from the highest",
        Strength.FILES: "its file measured lower; as a type not told apart, trained once",
        Strength.TRAININGS: "measurably lower",
    }[entry.strength]
