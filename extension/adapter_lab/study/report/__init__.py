"""The report of a study: a page that needs nothing else, the same as Markdown, its table as CSV, grids as PNG."""

from __future__ import annotations

from pathlib import Path

from adapter_lab import files
from adapter_lab.study.analysis.recommend import recommend
from adapter_lab.study.analysis.results import Results
from adapter_lab.study.report import table
from adapter_lab.study.report.grids import picture_grids, write_png
from adapter_lab.study.report.page import html
from adapter_lab.study.report.text import markdown

NAMES = ("report.html", "report.md", "report.csv")


def write(results: Results, folder: Path) -> list[Path]:
    """Write `report.html`, `report.md`, `report.csv` and a `grid-<n>.png` per shown prompt; returns these files."""
    folder.mkdir(parents=True, exist_ok=True)
    recommendation, grids = recommend(results), picture_grids(results)
    texts = (
        html(results, recommendation, grids),
        markdown(results, recommendation, len(grids)),
        table.as_csv(results, recommendation),
    )
    paths = [folder / name for name in NAMES]
    for path, text in zip(paths, texts, strict=True):
        files.write_text(path, text, sync=False)
    for number, grid in enumerate(grids, start=1):
        path = folder / f"grid-{number}.png"
        write_png(grid, path)
        paths.append(path)
    return paths
