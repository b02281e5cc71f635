"""One X/Y/Z grid while it is made: which cell is which file, what comes next, and cells that cannot be made."""

from __future__ import annotations

import itertools
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from adapter_lab.comparing.cell import Cell
from adapter_lab.comparing.grid import Grid
from adapter_lab.errors import AdapterLabError

# What a `StableDiffusionProcessing` carries: the grid it belongs to, what the axes say of it, why it stays blank.
SESSION, CELL, BLANK = "_adapter_lab_grid", "_adapter_lab_cell", "_adapter_lab_blank"

# What the web UI's loops are ordered by: the dearest is the outermost. Files change with the first four; loading a
# checkpoint is 1.0, a VAE 0.7 there.
COSTS = {"Study": 0.69, "Type": 0.68, "File": 0.67, "Step": 0.66, "Strength": 0.3}


class Session:
    """A grid in the making. `family_of`: the base models' family of a cell; `found_at`: what file a tag's name is."""

    def __init__(
        self,
        grid: Grid,
        family_of: Callable[[Any], str | None],
        found_at: Callable[[str], Path | None],
        read_ahead: Callable[[str], None],
    ) -> None:
        self.grid = grid
        self.pictures = 0
        self.blank: dict[str, str] = {}  # cell in words -> why
        self.files: list[str] = []  # the file of each image in the order they were made, "" for none
        self._family_of = family_of
        self._found_at = found_at
        self._read_ahead = read_ahead
        self._reading: threading.Thread | None = None
        self._order: list[str] | None = None

    def prepare(self, p: Any, cell: Cell) -> None:
        """Write the cell's tag into its prompts; raises AdapterLabError with why it cannot be made."""
        family = self._family_of(p)
        entry = self.grid.entry_for(cell, family)
        if entry is not None:
            self._check_reachable(entry.name, entry.path)
        for attribute in ("prompt", "hr_prompt"):
            prompt = getattr(p, attribute, None)
            if prompt or attribute == "prompt":  # an empty one of the hires pass stands for the first pass's
                setattr(p, attribute, _each(prompt, lambda text: self.grid.write_prompt(text, cell, family)))
        self.pictures += 1
        self.files.append("" if entry is None else str(entry.path))
        self._look_ahead(self.files[-1])

    def _check_reachable(self, name: str, path: Path) -> None:
        found = self._found_at(name)
        if found is not None and not _same(found, path):
            raise AdapterLabError(f"Two files are called {name}: {found} and {path}; rename one.")
        if found is None:
            raise AdapterLabError(f"{path} is not in the web UI's folder of Lora files; copy it there.")

    def _look_ahead(self, current: str) -> None:
        """Read the file that comes after `current` while its image is made."""
        coming = self._coming(current)
        if coming is None or (self._reading is not None and self._reading.is_alive()):
            return
        self._reading = threading.Thread(target=self._read_ahead, args=(coming,), daemon=True)
        self._reading.start()

    def _coming(self, current: str) -> str | None:
        order = self._order = self._order or list(self._files_in_order())
        before = [i for i, path in enumerate(order) if path == current]
        after = itertools.cycle(order[before[0] + 1 :] + order[: before[0]]) if before and len(order) > 1 else iter(())
        return next((path for path in itertools.islice(after, len(order)) if path and path != current), None)

    def _files_in_order(self) -> Iterator[str]:
        """The files of all cells in the order the web UI's loops come to them, without immediate repetitions."""
        axes = sorted(self.grid.values, key=lambda axis: -COSTS[axis])
        last = None
        for values in itertools.product(*(self.grid.values[axis] for axis in axes)):
            cell = Cell()
            for axis, value in zip(axes, values):
                cell = cell.with_value(axis, value)
            try:
                entry = self.grid.entry_for(cell)
            except AdapterLabError:
                continue
            path = "" if entry is None else str(entry.path)
            if path != last:
                yield path
            last = path

    @property
    def switches(self) -> int:
        """How often the file changed from one image to the next, to no adapter and from it too."""
        return sum(one != other for one, other in itertools.pairwise(self.files))

    def summary(self) -> str:
        """For the console."""
        distinct = len({path for path in self.files if path})
        text = f"X/Y/Z plot: {self.pictures} images of {distinct} adapter files, changed {self.switches} times"
        return text + "".join(f"\n  left blank: {cell}: {why}" for cell, why in self.blank.items())


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _each(prompt: Any, change: Callable[[str], str]) -> Any:
    return [change(text) for text in prompt] if isinstance(prompt, list) else change(prompt or "")


def in_words(cell: Cell) -> str:
    """What the axes say of a cell."""
    said = {name: value for name, value in vars(cell).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def blank_picture(width: int, height: int, reason: str) -> Image.Image:
    """An image that says why there is none. width, height: in pixels."""
    picture = Image.new("RGB", (max(width, 8), max(height, 8)), (40, 40, 40))
    draw = ImageDraw.Draw(picture)
    size = max(min(width // 20, 22), 9)
    try:
        font: Any = ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size
        font = ImageFont.load_default()
    letter = max(draw.textlength("n", font=font), 1)
    text = textwrap.fill(reason, max(int(width * 0.92 / letter), 8))
    draw.multiline_text((width // 25, height // 25), text, (235, 235, 235), font=font)
    return picture


def written_values(arguments: Sequence[Any], options: Sequence[Any]) -> Mapping[str, list[str]]:
    """What is on each axis by the label of its option. arguments: of the script's `run`, from its X type on."""
    found = {}
    csv_mode = bool(arguments[-1])
    for index, text, chosen in zip(arguments[0:9:3], arguments[1:9:3], arguments[2:9:3]):
        option = options[index or 0]
        from_list = option.choices is not None and not csv_mode
        found[option.label] = list(chosen or []) if from_list else csv_values(text or "")
    return found


def csv_values(text: str) -> list[str]:
    """The values in a line of comma-separated values, quotes as in csv files."""
    import csv

    rows = csv.reader([text], skipinitialspace=True)
    return [value.strip() for row in rows for value in row if value.strip()]
