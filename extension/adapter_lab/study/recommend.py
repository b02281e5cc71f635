"""Which type and which step to use: what the measurements of a study say, in plain words and with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.study.comparison import LOSSES, PICTURES, Difference, Place, Term
from adapter_lab.study.quality import Assessment, Ranked, assess, base_quality, cheapest_tied, saves
from adapter_lab.study.results import Mean, PointSummary, Results, VariantResult
from adapter_lab.study.scores import METRICS

COSTS = {"memory": "memory", "file": "file size", "time": "training time"}
WORDS = {
    "fidelity": "likeness to the training pictures",
    "agreement": "agreement with the prompt",
    "bleeding": "bleeding between concepts",
    "drift": "drift of other pictures",
    "validation_loss": "validation loss",
    "loss": "training loss",
}


@dataclass(frozen=True)
class Contrast:
    """Two variants that differ in one setting, and what it changes over the later half of their points, by metric."""

    setting: str
    before: str
    after: str
    values: tuple[Any, Any]
    changes: dict[str, Difference]


@dataclass(frozen=True)
class Recommendation:
    """What to use and why; without any measurement `variant` and `point` are None and `headline` says so.

    `reasons` speak for it, `cautions` say what weakens it, `wasteful` what costs more than it brings.
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
    if found is None:
        headline = "Nothing can be recommended: no adapter of this study has been scored, nor has it a loss."
        return Recommendation(None, None, None, headline, [], failed, [], _not_measured(results, []))
    chosen = cheapest_tied(found.ranking)
    variant = results.variant(chosen.variant)
    point = next(entry for entry in variant.points if entry.point == chosen.point)
    return Recommendation(
        variant=chosen.variant,
        point=chosen.point,
        adapter=_adapter(variant, chosen.point, found),
        headline=f"Use {chosen.variant} at {_amount(results, point)}.",
        reasons=_reasons(results, found, chosen),
        cautions=[*_cautions(results, found, chosen), *failed],
        wasteful=_wasteful(found),
        not_measured=_not_measured(results, found.metrics),
        ranking=found.ranking,
        quality=found.quality,
        contrasts=_contrasts(results, found),
    )


# Sentences


def interval(found: Difference, digits: int = 3) -> str:
    """A difference with its 95 % interval: "−0.021 ± 0.015"; "?" where nothing is known about it."""
    half = found.interval
    value = f"{found.value:+.{digits}f}".replace("-", "−")
    return f"{value} ± " + ("?" if half is None else f"{half:.{digits}f}")


def plus_minus(mean: Mean | None, digits: int = 3) -> str:
    """A mean with its standard error: "0.812 ± 0.011"; "–" for nothing."""
    if mean is None:
        return "–"
    return f"{mean.value:.{digits}f}" + ("" if mean.error is None else f" ± {mean.error:.{digits}f}")


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _amount(results: Results, point: PointSummary) -> str:
    budget, step = results.study.budget, f"step {point.steps:,.0f}"
    return step if budget.unit == "steps" else f"{step}, after {budget.in_words(point.amount)}"


def _reasons(results: Results, found: Assessment, chosen: Ranked) -> list[str]:
    best = found.ranking[0]
    reasons = [_highest(found, chosen)]
    for metric in found.metrics if len(found.metrics) > 1 else []:
        base = results.base.get((metric, ""))
        against = f" (without an adapter {plus_minus(base)})" if base else ""
        value = found.measured.mean(chosen.place, [Term(metric)])
        reasons.append(f"Its {WORDS[metric]} is {plus_minus(value)}{against}.")
    tied = [entry.variant for entry in found.ranking if entry.tied and entry.variant != chosen.variant]
    if tied:
        reasons.append(f"It cannot be told apart from {joined(tied)}: the difference lies within the uncertainty.")
    behind = [f"{e.variant} ({interval(e.to_best)})" for e in found.ranking if e.to_best and not e.tied]
    if behind:
        reasons.append(f"Measurably behind {best.variant}: {joined(behind)}.")
    return reasons + _about_step(results, found, chosen)


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
        if point.point < chosen.point and (d := differences[point.point]) and not d.told_apart
    ]
    if same:
        sentences.append(
            f"{'Steps' if same[1:] else 'Step'} {joined(same)} of it cannot be told apart from step {chosen.step:,.0f}."
        )
    last = points[-1]
    after = differences.get(last.point)
    if last.point > chosen.point and after is not None and after.told_apart:
        sentences.append(f"Training on to step {last.steps:,.0f} made it measurably worse ({interval(after)}).")
    elif last.point > chosen.point:
        sentences.append(f"Training on to step {last.steps:,.0f} brought nothing that can be measured.")
    return sentences


def _measured_points(results: Results, found: Assessment, variant: str) -> list[PointSummary]:
    return [point for point in results.variant(variant).points if (variant, point.point) in found.quality]


def _cautions(results: Results, found: Assessment, chosen: Ranked) -> list[str]:
    cautions = []
    if results.state != "done":
        cautions.append("The study is not finished; all of this may change.")
    if found.metrics[0] in LOSSES:
        cautions.append(
            f"No pictures were scored: this rests on the {WORDS[found.metrics[0]]} alone, which says little about "
            "likeness. Look at the pictures."
        )
    if len(results.study.general.seeds) < 2:
        over = "is that over pictures" if chosen.quality.error is not None else "is unknown"
        cautions.append(
            f"Each variant was trained once, so the uncertainty {over}; another training seed could change the order. "
            "Give study.seeds two or more numbers to know."
        )
    elif chosen.quality.over == PICTURES:
        cautions.append(f"Only one training of {chosen.variant} has been scored.")
    if len(found.ranking) > 1 and all(entry.tied for entry in found.ranking):
        cautions.append(
            f"No variant can be told apart from {found.ranking[0].variant} by quality: "
            "more training seeds or more pictures are needed."
        )
    if _still_rising(results, found, chosen):
        cautions.append("Its last step is its best and it was still getting better: a larger budget may bring more.")
    base = base_quality(results, found.scales)
    if base is not None and chosen.quality.value <= base:
        cautions.append("By this quality the base model without an adapter is at least as good.")
    return cautions + [
        f"{entry.variant} was dropped by the race after saving point {entry.point}; it is compared as it was then."
        for entry in results.decisions
    ]


def _still_rising(results: Results, found: Assessment, chosen: Ranked) -> bool:
    points = [point.point for point in _measured_points(results, found, chosen.variant)]
    if len(points) < 2 or chosen.point != points[-1]:
        return False
    places = [(chosen.variant, point) for point in points]
    last = found.difference(places[-1], places[-2], places)
    return last is not None and last.told_apart


def _wasteful(found: Assessment) -> list[str]:
    """Variants that cost more than another one without being measurably better."""
    places, sentences = [entry.place for entry in found.ranking], []
    for dear in found.ranking:
        for cheap in found.ranking:
            savings = saves(cheap, dear)
            if cheap is dear or not savings:
                continue
            difference = found.difference(cheap.place, dear.place, places)
            if difference is not None and (difference.value > 0 or not difference.told_apart):
                sentences.append(_waste(dear, cheap, difference, savings))
                break
    return sentences


def _waste(dear: Ranked, cheap: Ranked, found: Difference, savings: dict[str, float]) -> str:
    less = joined([f"{saving:.0%} less {COSTS[name]}" for name, saving in savings.items()])
    verdict = "is measurably better" if found.told_apart else "cannot be told apart from it"
    return (
        f"{dear.variant} costs more than it brings: {cheap.variant} {verdict} "
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
        missing.append("Validation loss: no pictures were held out (dataset.validation_fraction).")
    missing.append("Other pictures, bases, prompts and budgets than this study's; and taste.")
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


# Single settings


def _contrasts(results: Results, found: Assessment) -> list[Contrast]:
    """Pairs of variants of one algorithm that differ in one setting, and what that changes."""
    contrasts = []
    for first, second, setting in _pairs(results):
        common = sorted({point.point for point in first.points} & {point.point for point in second.points})
        if not common:
            continue
        measured = found.measured.averaged(common[len(common) // 2 :])
        names = [variant.variant.name for variant in results.variants]
        changes = {}
        for metric in found.metrics:
            spread = measured.spread([(name, 0) for name in names], [Term(metric)])
            places = [(entry.variant.name, 0) for entry in (second, first)]
            if change := measured.difference(places[0], places[1], [Term(metric)], spread):
                changes[metric] = change
        before, after = (_setting(results.study.shared, entry, setting) for entry in (first, second))
        contrasts.append(Contrast(setting, first.variant.name, second.variant.name, (before, after), changes))
    return contrasts


def _pairs(results: Results) -> Iterator[tuple[VariantResult, VariantResult, str]]:
    shared = results.study.shared
    for index, first in enumerate(results.variants):
        for second in results.variants[index + 1 :]:
            paths = sorted({*first.variant.settings, *second.variant.settings})
            changed = [path for path in paths if _setting(shared, first, path) != _setting(shared, second, path)]
            # One dim means different things to two algorithms, so that these are never a single change.
            if len(changed) == 1 and changed[0] != "network.algo":
                yield first, second, changed[0]


def _setting(shared: TrainConfig, variant: VariantResult, path: str) -> Any:
    section, name = path.split(".")
    return variant.variant.settings.get(path, getattr(getattr(shared, section), name))
