"""A grid of images by type and step, drawn from adapter files of any program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from adapter_lab.adapters.library import Entry, Run, Shelf, read_entry
from adapter_lab.comparing.studies import adapter_files, saved_by
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError, FileFormatError
from adapter_lab.study.pictures.drawing import Drawer
from adapter_lab.study.pictures.grid import label_grid

FONT_SIZE = 14


@dataclass
class DrawnGrid:
    """The image, the names of its rows and columns, and sentences about what could not be drawn as asked."""

    picture: Image.Image
    rows: list[str]
    columns: list[str]
    remarks: list[str] = field(default_factory=list)


def draw_grid(
    config: TrainConfig, sources: Sequence[Path], strength: float = 1.0, columns: int = 0, baseline: bool = True
) -> DrawnGrid:
    """Draw every run of `sources` (adapter files, folders of them, run folders, studies) at its saved steps.

    Each cell shows all of `config.preview.prompts` side by side. `columns`: at most so many steps, evenly; 0: all.
    A step that a run does not have shows its nearest, and says which. Raises AdapterLabError without any adapter file.
    """
    remarks: list[str] = []
    shelf = Shelf(_entries([path for source in sources for path in _files(source)], remarks))
    if not shelf.runs:
        raise AdapterLabError(f"No adapter file was found in {', '.join(map(str, sources))}; check the path.")
    names = _names(shelf)
    heads, cells = _columns(shelf.runs, columns)
    drawer, preview = Drawer(config), config.preview
    prompts = [(text, preview.seed + index) for index, text in enumerate(preview.prompts)]
    base = _beside(list(drawer.draw(prompts))) if baseline else None
    drawn: list[list[Image.Image]] = []
    for entries in cells:
        row = [base] if base else []
        for head, entry in zip(heads, entries):
            try:
                picture = _beside(list(drawer.draw(prompts, [(entry.path, strength)])))
            except FileFormatError as error:
                remarks.append(str(error))
                picture = _blank(drawer.size, len(prompts), "not drawn")
            row.append(picture if entry.at == head else _written(picture, entry.at))
        drawn.append(row)
    shown = (["base"] if base else []) + heads
    rows = [names[run.last.path] for run in shelf.runs]
    return DrawnGrid(label_grid(drawn, rows, shown), rows, shown, remarks)


def _files(source: Path) -> list[Path]:
    """The adapter files a path means."""
    if source.is_file():
        return [source]
    if (source / "study.toml").is_file():
        return adapter_files(source)
    if (source / "events.jsonl").is_file():
        return [path for path in saved_by(source) if path.is_file()]
    return sorted(source.rglob("*.safetensors"))


def _entries(paths: Sequence[Path], remarks: list[str]) -> list[Entry]:
    found = []
    for path in dict.fromkeys(paths):
        entry = read_entry(path)
        if entry is None:
            remarks.append(f"{path} is no adapter file, or broken; it is left out.")
        else:
            found.append(entry)
    return found


def _names(shelf: Shelf) -> dict[Path, str]:
    """A name for each run, by its last file: its type, or where several are of one type its own name."""
    kinds = [shelf.labels[run.kind] for run in shelf.runs]
    return {
        run.last.path: kind if kinds.count(kind) == 1 else f"{kind}, {run.name}" for run, kind in zip(shelf.runs, kinds)
    }


def _columns(runs: Sequence[Run], most: int) -> tuple[list[str], list[list[Entry]]]:
    """Heads of the columns, and the file of each run in each.

    Runs that saved equally often but after other steps, as those trained to equal minutes do, are set side by side in
    their order; else there is a column for every step that a run was saved at.
    """
    lengths = {len(run.entries) for run in runs}
    if len({tuple(entry.at for entry in run.entries) for run in runs}) > 1 and len(lengths) == 1:
        count = lengths.pop()
        places = _evenly(list(range(count)), most)
        return [f"{place + 1}/{count}" for place in places], [[run.entries[p] for p in places] for run in runs]
    positions = {e.lineage.position: e.at for run in runs for e in run.entries if e.lineage.position is not None}
    if not positions:
        return ["last"], [[run.last] for run in runs]
    steps = _evenly(sorted(positions), most)
    return [positions[step] for step in steps], [[run.nearest(step) for step in steps] for run in runs]


def _evenly(values: list[int], most: int) -> list[int]:
    """At most `most` of the values (0: all), evenly spread, with the last among them."""
    if not most or len(values) <= most:
        return values
    return [values[round((index + 1) * len(values) / most) - 1] for index in range(most)]


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(picture.width for picture in pictures)
    joined = Image.new("RGB", (width, pictures[0].height))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width
    return joined


def _blank(size: tuple[int, int], count: int, reason: str) -> Image.Image:
    return _written(Image.new("RGB", (size[1] * count, size[0]), "gray"), reason)


def _written(picture: Image.Image, text: str) -> Image.Image:
    """A copy of an image with a word in its corner."""
    picture, font = picture.copy(), ImageFont.load_default(FONT_SIZE)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, font.getlength(text) + 6, FONT_SIZE + 6), "white")
    draw.text((3, 2), text, "black", font)
    return picture
