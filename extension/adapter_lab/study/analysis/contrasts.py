"""Pairs of variants that differ in one setting, and what that setting changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapter_lab.comparing.evidence import Difference
from adapter_lab.config import TrainConfig
from adapter_lab.study.analysis.comparison import Term
from adapter_lab.study.analysis.quality import Assessment
from adapter_lab.study.analysis.results import Results, VariantResult


@dataclass(frozen=True)
class Contrast:
    """Two variants that differ in one setting, and what it changes over the later half of their points, by metric."""

    setting: str
    before: str
    after: str
    values: tuple[Any, Any]
    changes: dict[str, Difference]


def contrasts(results: Results, found: Assessment) -> list[Contrast]:
    """Pairs of variants of one algorithm that differ in one setting, and what that changes."""
    found_pairs = []
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
        found_pairs.append(Contrast(setting, first.variant.name, second.variant.name, (before, after), changes))
    return found_pairs


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
