"""Which type and which step to use: what the measurements of a study say, in plain words and with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.comparing.evidence import METRICS, PICTURES, Difference, Strength, interval, joined, strength
from adapter_lab.study.analysis.comparison import Place, Term
from adapter_lab.study.analysis.contrasts import Contrast, contrasts
from adapter_lab.study.analysis.headline import OPEN, choose
from adapter_lab.study.analysis.quality import VALIDATION, Assessment, Ranked, assess, base_quality, saves
from adapter_lab.study.analysis.results import Mean, PointSummary, Results, VariantResult
from adapter_lab.study.analysis.sentences import COSTS, WORDS, plus_minus


@dataclass(frozen=True)
class Recommendation:
    """What to use and why, as far as the numbers bear it; `headline` says it in one sentence.

    `variant`, `point` and `adapter` are None where nothing is recommended: while trainings are open, without a
    measurement, or where what was measured cannot be told apart. `reasons` speak for it, `cautions` say what weakens
    it, `wasteful` what costs more than it brings.
    """

    variant: str | None
    point: int | None
    adapter: Path | None
    headline: str
    reasons: list[str]
    cautions: list[str]
    wasteful: list[str]
    not_measured: list[str]
    ranking: list[Ranked] = field(default_factory=list)
    quality: dict[Place, Mean] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)


def recommend(results: Results) -> Recommendation:
    """Type and step to use, of what a study has measured so far."""
    failed = [_failure(variant) for variant in results.variants if variant.state in ("failed", "skipped")]
    found = assess(results)
    choice = choose(results, found)
    chosen, would_tell = choice.ranked, [choice.would_tell] if choice.would_tell else []
    if found is None:
        missing = _not_measured(results, [])
        return Recommendation(None, None, None, choice.headline, would_tell, failed, [], missing)
    is_open = results.state in OPEN
    return Recommendation(
        variant=chosen.variant if chosen else None,
        point=chosen.point if chosen else None,
        adapter=_adapter(results.variant(chosen.variant), chosen.point, found) if chosen else None,
        headline=choice.headline,
        reasons=[] if is_open else [*would_tell, *_reasons(results, found, chosen)],
        cautions=[*([] if is_open else _cautions(results, found, chosen or found.ranking[0])), *failed],
        wasteful=[] if is_open else _wasteful(found),
        not_measured=_not_measured(results, found.metrics),
        ranking=found.ranking,
        quality=found.quality,
        contrasts=contrasts(results, found),
    )


# Sentences


def _reasons(results: Results, found: Assessment, chosen: Ranked | None) -> list[str]:
    reasons = _about(results, found, chosen) if chosen else []
    tied = [e.variant for e in found.ranking if e.tied and e is not (chosen or found.ranking[0])]
    if tied and chosen:
        why = "the difference lies within the uncertainty" if len(results.study.general.seeds) > 1 else "trained once"
        reasons.append(f"As a type it cannot be told apart from {joined(tied)}: {why}.")
    behind = [f"{e.variant} ({interval(e.to_best)})" for e in found.ranking if e.to_best and not e.tied]
    if behind:
        reasons.append(f"Measurably behind {found.ranking[0].variant}: {joined(behind)}.")
    asked = [chosen] if chosen else [entry for entry in found.ranking if entry.strength < Strength.FILES]
    return reasons + [sentence for entry in asked for sentence in _about_step(results, found, entry)]


def _about(results: Results, found: Assessment, chosen: Ranked) -> list[str]:
    """What the chosen one measured."""
    reasons = [_highest(found, chosen)]
    for metric in found.metrics if len(found.metrics) > 1 else []:
        base = results.base.get((metric, ""))
        against = f" (without an adapter {plus_minus(base)})" if base else ""
        value = found.measured.mean(chosen.place, [Term(metric)])
        reasons.append(f"Its {WORDS[metric]} is {plus_minus(value)}{against}.")
    return reasons


def _highest(found: Assessment, chosen: Ranked) -> str:
    best, scales = found.ranking[0], found.scales
    made_of = joined([f"{scale.weight:.0%} {WORDS[scale.metric]}" for scale in scales if scale.weight >= 0.005])
    if len(scales) == 1:
        made_of = f"{WORDS[scales[0].metric]} alone"
    what = f"highest quality (0 to 1: {made_of})"
    if chosen is best:
        return f"It has the {what}: {plus_minus(chosen.quality)}."
    savings = joined([f"{saving:.0%} less {COSTS[name]}" for name, saving in saves(chosen, best).items()] or ["less"])
    return (
        f"{best.variant} has the {what}: {plus_minus(best.quality)}. {chosen.variant} with "
        f"{plus_minus(chosen.quality)} cannot be told apart from it and needs {savings}."
    )


def _about_step(results: Results, found: Assessment, chosen: Ranked) -> list[str]:
    """Which earlier steps are as good, and what comes after the chosen one."""
    points = _measured_points(results, found, chosen.variant)
    places = [(chosen.variant, point.point) for point in points]
    differences = {place[1]: found.difference(place, chosen.place, places) for place in places if place != chosen.place}
    sentences = []
    same = [
        f"{point.steps:,.0f}"
        for point in points
        if point.point < chosen.point and strength(differences[point.point]) < Strength.FILES
    ]
    if same:
        sentences.append(
            f"{'Steps' if same[1:] else 'Step'} {joined(same)} of {chosen.variant} cannot be told apart from its step "
            f"{chosen.step:,.0f}, which measured highest."
        )
    last = points[-1]
    if last.point > chosen.point:
        what = f"Training {chosen.variant} on from step {chosen.step:,.0f} to step {last.steps:,.0f}"
        sentences.append(f"{what} {_outcome(differences.get(last.point))}.")
    return sentences


def _outcome(after: Difference | None) -> str:
    """What training on did, `after` minus before."""
    match strength(after):
        case Strength.UNKNOWN:
            return "measured lower, but nothing is known about the uncertainty of that"
        case Strength.TIED:
            return "brought nothing that can be measured"
        case _ if after is not None:
            return f"made it measurably worse ({interval(after)})"
    return ""


def _measured_points(results: Results, found: Assessment, variant: str) -> list[PointSummary]:
    return [point for point in results.variant(variant).points if (variant, point.point) in found.quality]


def _cautions(results: Results, found: Assessment, chosen: Ranked) -> list[str]:
    cautions = []
    if found.metrics == [VALIDATION]:
        cautions.append(
            f"No images were scored: this rests on the {WORDS[found.metrics[0]]} alone, which says little about "
            "likeness. Look at the images."
        )
    if len(results.study.general.seeds) < 2:
        over = "is that over images" if chosen.quality.error is not None else "is unknown"
        cautions.append(
            f"Each variant was trained once, so the uncertainty {over}; another training seed could change the order."
        )
    elif chosen.quality.over == PICTURES:
        cautions.append(f"Only one training of {chosen.variant} has been scored.")
    if _still_rising(results, found, chosen):
        cautions.append(
            f"The last step of {chosen.variant} is its best and it was still getting better: a larger budget may bring "
            "more."
        )
    base = base_quality(results, found.scales)
    if base is not None and chosen.quality.value <= base < found.ranking[0].quality.value:
        cautions.append("By this quality the base model without an adapter is at least as good as it.")
    return cautions + [
        f"{entry.variant} was dropped by the race after checkpoint {entry.point}; it is compared as it was then."
        for entry in results.decisions
    ]


def _still_rising(results: Results, found: Assessment, chosen: Ranked) -> bool:
    points = [point.point for point in _measured_points(results, found, chosen.variant)]
    if len(points) < 2 or chosen.point != points[-1]:
        return False
    places = [(chosen.variant, point) for point in points]
    last = found.difference(places[-1], places[-2], places)
    return strength(last) >= Strength.FILES


def _wasteful(found: Assessment) -> list[str]:
    """Variants that cost more than another one without having measured better."""
    places, sentences = [entry.place for entry in found.ranking], []
    for dear in found.ranking:
        for cheap in found.ranking:
            savings = saves(cheap, dear)
            if cheap is dear or not savings:
                continue
            difference = found.difference(cheap.place, dear.place, places)
            if difference is not None and (verdict := _against(difference)):
                sentences.append(_waste(dear, cheap, difference, verdict, savings))
                break
    return sentences


def _against(found: Difference) -> str:
    """What the cheaper one is against the dearer, in words; "" where nothing is known or it is worse."""
    bears = strength(found)
    if bears == Strength.TIED:
        return "cannot be told apart from it"
    if bears == Strength.UNKNOWN or found.value < 0:
        return ""
    return "is measurably better" if bears == Strength.TRAININGS else "measured better in its file, trained once"


def _waste(dear: Ranked, cheap: Ranked, found: Difference, verdict: str, savings: dict[str, float]) -> str:
    less = joined([f"{saving:.0%} less {COSTS[name]}" for name, saving in savings.items()])
    return (
        f"{dear.variant} costs more without measuring better: {cheap.variant} {verdict} "
        f"(quality {interval(found)}) and needs {less}."
    )


def _failure(variant: VariantResult) -> str:
    after = f" after {variant.points[-1].steps:,.0f} steps" if variant.points else ""
    what = "was left out" if variant.state == "skipped" else "failed"
    return f"{variant.variant.name} {what}{after}: {variant.why or 'no reason was given.'}"


def _not_measured(results: Results, used: Sequence[str]) -> list[str]:
    missing = [f"{WORDS[m][0].upper()}{WORDS[m][1:]}: no scorer measured it." for m in METRICS if m not in used]
    for variant in results.variants:
        points = [point for training in variant.trainings for point in training.points]
        scored = sum(bool(point.values) for point in points)
        if not points and variant.state not in ("failed", "skipped"):
            missing.append(f"{variant.variant.name}: nothing of it has been saved yet ({variant.state}).")
        elif 0 < scored < len(points):
            missing.append(f"{variant.variant.name}: {len(points) - scored} of its {len(points)} files are not scored.")
    if not any(point.validation_loss for variant in results.variants for point in variant.points):
        missing.append("Validation loss: no images were held out (dataset.validation_fraction).")
    missing.append("Other images, bases, prompts and budgets than this study's; and taste.")
    return missing


def _adapter(variant: VariantResult, point: int, found: Assessment) -> Path | None:
    """The file of the best training at that point that is still there."""
    quality = found.measured.per_training((variant.variant.name, point), found.terms)
    files = [
        (quality.get(training.seed, float("-inf")), saved.adapter)
        for training in variant.trainings
        for saved in training.points
        if saved.point == point and saved.adapter is not None
    ]
    return max(files, key=lambda entry: entry[0])[1] if files else None
