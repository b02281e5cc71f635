"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_lab.study.analysis.recommend import Recommendation
from adapter_lab.study.analysis.results import Results
from adapter_lab.study.report import table
from adapter_lab.study.report.wording import (
    CONTRASTED,
    READING,
    contrast_text,
    decision_text,
    facts,
    shared_settings,
    variant_settings,
)


def markdown(results: Results, recommendation: Recommendation, grids: int) -> str:
    """Everything of the report but its charts; `grids` is how many grid files lie beside it."""
    parts = [
        f"# Study {results.study.name}",
        f"**{recommendation.headline}**",
        _list(recommendation.reasons),
        _section("Read with care", recommendation.cautions),
        _section("What costs more without measuring better", recommendation.wasteful),
        "## What was measured",
        table.markdown(results, recommendation).strip(),
        READING,
        _section("What single settings changed", _contrasts(recommendation), CONTRASTED),
        _section("Dropped by the race", [decision_text(decision) for decision in results.decisions]),
        _section("Failed or left out", [f"{v.variant.name}: {v.why}" for v in results.variants
                                        if v.state in ("failed", "skipped")]),
        "\n".join(f"![Grid {number}](grid-{number}.png)" for number in range(1, grids + 1)),
        _section("Not measured", recommendation.not_measured),
        _section("The study", [f"{name}: {value}" for name, value in facts(results)]),
        _section("Settings of each variant",
                 [f"{v.variant.name}: {variant_settings(v.variant.settings)}" for v in results.variants]),
        _section("Settings that all share", [f"{path} = {value}" for path, value in shared_settings(results.study)]),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(entries: Sequence[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries)


def _section(title: str, entries: Sequence[str], before: str = "") -> str:
    return "\n\n".join(part for part in (f"## {title}", before, _list(entries)) if part) if entries else ""


def _contrasts(recommendation: Recommendation) -> list[str]:
    return [
        f"{c.before} → {c.after} ({c.setting} {c.values[0]} → {c.values[1]}): "
        + ", ".join(f"{metric} {change} ({verdict})" for metric, change, verdict in contrast_text(c))
        for c in recommendation.contrasts
    ]
