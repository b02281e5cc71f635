"""The report as one HTML page: styles, charts and images inside it, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adapter_lab.comparing.evidence import interval
from adapter_lab.study.analysis.recommend import Recommendation
from adapter_lab.study.analysis.results import Results
from adapter_lab.study.analysis.sentences import plus_minus
from adapter_lab.study.report import table
from adapter_lab.study.report.charts import concept_charts, loss_charts, pareto_chart, score_charts
from adapter_lab.study.report.grids import PictureGrid
from adapter_lab.study.report.svg import Chart
from adapter_lab.study.report.wording import (
    CONTRASTED,
    READING,
    contrast_text,
    decision_text,
    facts,
    rank_text,
    shared_settings,
    variant_settings,
)

HERE = Path(__file__).parent


def html(results: Results, recommendation: Recommendation, grids: Sequence[PictureGrid]) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda chart: Markup(chart.svg())
    pareto = pareto_chart(results)
    return environment.get_template("page.html").render(
        results=results,
        recommendation=recommendation,
        columns=table.columns(results),
        rows=table.rows(results, recommendation),
        sections=_sections(results, recommendation, [pareto] if pareto else []),
        grids=grids,
        reading=READING,
        contrasted=CONTRASTED,
        facts=facts(results),
        shared=shared_settings(results.study),
        variant_settings=variant_settings,
        decision_text=decision_text,
        contrast_text=contrast_text,
        rank_text=rank_text,
        interval=interval,
        plus_minus=plus_minus,
    )


def _sections(
    results: Results, recommendation: Recommendation, pareto: Sequence[Chart]
) -> list[tuple[str, str, Sequence[Chart]]]:
    """Titles, ids and charts of the sections that have any."""
    sections = [
        ("Fidelity against drift", "pareto", pareto),
        ("Scores", "scores", score_charts(results, recommendation)),
        ("Scores by concept", "concepts", concept_charts(results)),
        ("Losses and rates", "losses", loss_charts(results)),
    ]
    return [section for section in sections if section[2]]
