"""The first sentence of a recommendation, no stronger than the numbers bear, and what would tell more.

What decides is `comparing.evidence.strength`: a type is recommended where trainings with several seeds tell it apart;
of types that were trained once, only the files can be. Nothing is recommended while trainings are open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapter_lab.comparing.evidence import MOST_PAIRS, Strength, joined, pairs_to_tell
from adapter_lab.study.analysis.quality import VALIDATION, Assessment, Ranked, base_quality, cheapest_tied, saves
from adapter_lab.study.analysis.results import ENDED, Results
from adapter_lab.study.analysis.sentences import WORDS, at_step
from adapter_lab.study.spec.definition import OF_LOSSES

OPEN = ("queued", "running")


@dataclass(frozen=True)
class Choice:
    """A headline, the ranked variant whose file it names (None: none), and what would tell more."""

    headline: str
    ranked: Ranked | None = None
    would_tell: str = ""


def choose(results: Results, found: Assessment | None) -> Choice:
    """What a study's numbers bear to be said first."""
    if results.state in OPEN:
        return Choice(_still_open(results))
    if found is None:
        return Choice(_nothing_compared(results), None, _would_tell(results, None))
    best = found.ranking[0]
    base = base_quality(results, found.scales)
    if base is not None and best.quality.value <= base:
        headline = (
            "No adapter is recommended: by these measurements the base model without one is at least as good as the "
            f"best of them ({best.variant} at {_at(results, best)})."
        )
        return Choice(headline, None, "More steps, or a setting under which the images are learnt at all.")
    equal = [entry for entry in found.ranking if entry.strength < Strength.FILES]
    if len(equal) > 1:
        return _tie(results, found, equal)
    if any(entry.tied for entry in found.ranking[1:]):
        headline = (
            "Which type is better cannot be told: "
            + ("each was trained once" if _trained_once(results) else "not all of them were trained with several seeds")
            + f". Of these files, that of {best.variant} at {_at(results, best)} measured best over its images."
        )
        return Choice(headline, best, _would_tell(results, found))
    return Choice(f"Use {best.variant} at {_at(results, best)}.", best)


def _tie(results: Results, found: Assessment, equal: Sequence[Ranked]) -> Choice:
    """Several that are as good: the cheapest of them is named where one is."""
    chosen = cheapest_tied(found.ranking)
    saved = next((saves(chosen, other) for other in equal if other is not chosen and saves(chosen, other)), {})
    rest = len(found.ranking) - len(equal)
    what = "quality" if found.metrics != [VALIDATION] else WORDS[VALIDATION]
    headline = f"{joined([entry.variant for entry in equal])} cannot be told apart by {what}"
    headline += f"; {'the other' if rest == 1 else f'the other {rest}'} measured lower." if rest else "."
    if saved:
        headline += f" {chosen.variant} at {_at(results, chosen)} costs least of them."
    return Choice(headline, chosen if saved else None, _would_tell(results, found))


def _still_open(results: Results) -> str:
    trainings = [training for variant in results.variants for training in variant.trainings]
    ended = sum(training.state in ENDED for training in trainings)
    return f"Nothing is recommended yet: {ended} of {len(trainings)} trainings have ended."


def _nothing_compared(results: Results) -> str:
    points = [point for variant in results.variants for point in variant.points]
    differing = results.study.differing(OF_LOSSES)
    if differing and any(point.validation_loss for point in points):
        return (
            f"Nothing can be recommended: no images were scored, and the variants differ in {joined(differing)}, "
            "which changes what their validation losses measure."
        )
    if any(point.loss for point in points):
        return (
            "Nothing can be recommended: only training losses were measured. Those of different steps come from other "
            "images and other noise, and say little about likeness."
        )
    return "Nothing can be recommended: no adapter of this study has been scored, nor has it a validation loss."


def _would_tell(results: Results, found: Assessment | None) -> str:
    """What to add so that the next study tells more."""
    seeds, more = len(results.study.general.seeds), []
    if seeds < 2:
        more.append("two or more training seeds (study.seeds; three are a good start)")
    elif found is not None:
        untold = [entry.to_best for entry in found.ranking if entry.to_best and entry.tied]
        needed = [count for count in map(pairs_to_tell, untold) if count is not None]
        if not needed:
            return (
                f"More than {MOST_PAIRS} training seeds would be needed to tell them apart: they are as good as equal."
            )
        more.append(f"about {min(needed)} training seeds instead of {seeds}, if the difference stays as it seems")
    if found is None or found.metrics == [VALIDATION]:
        more.append("scores of images (sections [scores.NAME])")
    if found is None:
        more.append("a validation loss (dataset.validation_fraction)")
    return f"What would tell: {joined(more)}; or more steps, where the types have not come far yet."


def _trained_once(results: Results) -> bool:
    return len(results.study.general.seeds) < 2


def _at(results: Results, entry: Ranked) -> str:
    """The step at which a variant is ranked, in words."""
    point = next(p for p in results.variant(entry.variant).points if p.point == entry.point)
    return at_step(results, point)
