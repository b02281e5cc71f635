"""What keeps a race from being decided, and what makes it drop nothing, said before it starts."""

from __future__ import annotations

from adapter_lab.comparing.evidence import METRICS, joined
from adapter_lab.study.spec.definition import OF_LOSSES, OF_TRAINING_LOSSES, Study


def problems(study: Study) -> list[str]:
    """What keeps a race from being decided, as sentences."""
    race, several = study.race, len(study.general.seeds) > 1
    if not race.enabled:
        return []
    known = ("loss", "validation_loss", *METRICS)
    if race.metric not in known:
        return [f"race.metric is {race.metric!r}, but must be one of {', '.join(known)}."]
    if race.metric == "validation_loss" and not study.shared.dataset.validation_fraction:
        return ["race.metric is validation_loss, which needs dataset.validation_fraction above 0."]
    if race.metric == "validation_loss" and not several:
        return [
            "race.metric is validation_loss, whose uncertainty is unknown with one seed: add study.seeds, or choose "
            "loss or a score."
        ]
    if race.metric in METRICS and not study.scores:
        return [f"race.metric is {race.metric}, but no scorer is set up: add a section [scores.NAME]."]
    if study.shared.optimizer.schedule != "constant":
        return [
            f"optimizer.schedule is {study.shared.optimizer.schedule}, which depends on when training ends; a race "
            "changes that: choose constant, or race.enabled = false."
        ]
    return []


def remarks(study: Study) -> list[str]:
    """Why a race that is switched on drops nothing, as sentences; an older release began such races."""
    if not study.race.enabled:
        return []
    found = []
    if len(study.general.seeds) < 2:
        found.append(
            "The race drops nothing: with one training each, nothing can be said about one variant against another. "
            "Give study.seeds two or more numbers."
        )
    changing = {"loss": OF_TRAINING_LOSSES, "validation_loss": OF_LOSSES}.get(study.race.metric, ())
    if differing := study.differing(changing) if changing else []:
        found.append(
            f"The race drops nothing: the variants differ in {joined(differing)}, so that their losses measure "
            "different things. Choose a score as race.metric."
        )
    return found
