"""Grids of type by checkpoint for a report: which image stands where, and why none does."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from adapter_lab import files
from adapter_lab.study.analysis.results import BASE, Results, Training, VariantResult
from adapter_lab.study.pictures.grid import label_grid
from adapter_lab.study.pictures.store import read_pictures
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec.measured import ScorePrompt

LARGEST_PROMPTS, LARGEST_COLUMNS = 6, 10
THUMBNAIL, CELL = 144, 256  # largest sides in the page and in PNG files
QUALITY = 82
GREY = "#8a8a8a"


@dataclass(frozen=True)
class Cell:
    """An image with what stands below it, or, without an image, why there is none."""

    path: Path | None
    caption: str

    def data(self) -> str:
        """The image, scaled down, as a data URI."""
        assert self.path is not None
        return picture_data(self.path)


@dataclass(frozen=True)
class PictureRow:
    """A variant's images, the base's first."""

    variant: str
    cells: list[Cell]


@dataclass(frozen=True)
class PictureGrid:
    """All variants at their checkpoints for one prompt and seed."""

    prompt: ScorePrompt
    columns: list[str]
    rows: list[PictureRow]


def picture_data(path: Path) -> str:
    """An image file, scaled down, as a data URI."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        small.save(data, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def picture_grids(results: Results) -> list[PictureGrid]:
    """A grid for the first prompt of every group that scorers asked for; none where nothing was drawn."""
    folder = StudyFolder(results.folder)
    found: dict[tuple[str, int], dict[ScorePrompt, Path]] = {}
    for name, step in [(BASE, 0), *_files(results)]:
        found[name, step] = {picture.prompt: picture.path for picture in read_pictures(folder.pictures(name, step))}
    prompts = [prompt for pictures in found.values() for prompt in pictures]
    points = _columns(results)
    return [_grid(results, prompt, points, found) for prompt in _shown(prompts)]


def write_png(grid: PictureGrid, path: Path) -> None:
    """The grid as one labelled PNG, for forums and documents."""
    sizes = [_opened(cell.path).size for row in grid.rows for cell in row.cells if cell.path]
    size = max(sizes) if sizes else (CELL, CELL)
    cells = [[_picture(cell, size) for cell in row.cells] for row in grid.rows]
    with files.replacing(path, sync=False) as file:
        label_grid(cells, [row.variant for row in grid.rows], grid.columns).save(file, format="PNG")


def _files(results: Results) -> list[tuple[str, int]]:
    return [
        (training.name, point.step)
        for variant in results.variants
        for training in variant.trainings
        for point in training.points
    ]


def _shown(prompts: Sequence[ScorePrompt]) -> list[ScorePrompt]:
    first: dict[str, ScorePrompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.about, prompt)
    return list(first.values())[:LARGEST_PROMPTS]


def _columns(results: Results) -> list[int]:
    """Checkpoints to show: all, or some at equal distances with the last among them."""
    points = sorted({point.point for variant in results.variants for point in variant.points})
    if len(points) <= LARGEST_COLUMNS:
        return points
    places = [round((index + 1) * len(points) / LARGEST_COLUMNS) - 1 for index in range(LARGEST_COLUMNS)]
    return [points[place] for place in places]


def _grid(
    results: Results,
    prompt: ScorePrompt,
    points: Sequence[int],
    found: dict[tuple[str, int], dict[ScorePrompt, Path]],
) -> PictureGrid:
    budget = results.study.budget
    base = Cell(found[BASE, 0].get(prompt), "no adapter" if prompt in found[BASE, 0] else "not drawn")
    rows = []
    for variant in results.variants:
        shown = _shown_training(variant)
        cells = [_cell(variant, shown, point, prompt, found) for point in points]
        rows.append(PictureRow(variant.variant.name, [base, *cells]))
    heads = [budget.in_words(budget.share(point)) for point in points]
    return PictureGrid(prompt, ["base", *heads], rows)


def _shown_training(variant: VariantResult) -> Training | None:
    """The training that got furthest, the first of several."""
    return max(variant.trainings, key=lambda training: len(training.points), default=None)


def _cell(
    variant: VariantResult,
    training: Training | None,
    point: int,
    prompt: ScorePrompt,
    found: dict[tuple[str, int], dict[ScorePrompt, Path]],
) -> Cell:
    saved = next((entry for entry in training.points if entry.point == point), None) if training else None
    if training is None or saved is None:
        return Cell(None, variant.state if variant.state in ("failed", "dropped", "skipped") else "not reached")
    path = found[training.name, saved.step].get(prompt)
    return Cell(path, f"step {saved.step:,}" if path else "not drawn")


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small


def _picture(cell: Cell, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    if cell.path:
        picture.paste(_opened(cell.path))
    else:
        font = ImageFont.load_default(12)
        ImageDraw.Draw(picture).text((size[0] / 2, size[1] / 2), cell.caption, GREY, font, anchor="mm")
    return picture
