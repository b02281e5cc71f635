"""A labelled grid of images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

HEADER, GAP, FONT_SIZE = 24, 6, 16


def label_grid(cells: Sequence[Sequence[Image.Image]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Equal-sized images, one list per row, with the rows' names on the left and the columns' on top.

    Raises ValueError if the numbers of cells and names differ.
    """
    if len(cells) != len(rows) or any(len(row) != len(columns) for row in cells):
        raise ValueError(f"{[len(row) for row in cells]} cells for {len(rows)} rows and {len(columns)} columns")
    font = ImageFont.load_default(FONT_SIZE)
    width, height = cells[0][0].size
    left = max(round(font.getlength(name)) for name in rows) + 2 * GAP
    grid = Image.new("RGB", (left + len(columns) * (width + GAP), HEADER + len(rows) * (height + GAP)), "white")
    draw = ImageDraw.Draw(grid)
    for column, name in enumerate(columns):
        draw.text((left + column * (width + GAP) + width / 2, HEADER / 2), name, "black", font, anchor="mm")
    for row, name in enumerate(rows):
        top = HEADER + row * (height + GAP)
        draw.text((GAP, top + height / 2), name, "black", font, anchor="lm")
        for column, picture in enumerate(cells[row]):
            grid.paste(picture, (left + column * (width + GAP), top))
    return grid
