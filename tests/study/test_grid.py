"""The labelled grid."""

from __future__ import annotations

import pytest
from PIL import Image

from adapter_lab.study.pictures.grid import label_grid

RED, BLUE = Image.new("RGB", (40, 30), (255, 0, 0)), Image.new("RGB", (40, 30), (0, 0, 255))


def test_pictures_stand_in_rows_and_columns_with_their_names_around() -> None:
    grid = label_grid([[RED, BLUE, RED], [BLUE, RED, BLUE]], ["LoRA", "LoKr"], ["base", "step 50", "step 100"])
    colours = {RED.getpixel((0, 0)): "red", BLUE.getpixel((0, 0)): "blue"}
    left, top, found = grid.width - 3 * 46, 24, []
    for row in range(2):
        for column in range(3):
            found.append(colours[grid.getpixel((left + column * 46 + 20, top + row * 36 + 15))])  # type: ignore[index]
    assert found == ["red", "blue", "red", "blue", "red", "blue"]
    names = grid.crop((0, top, left, grid.height)).convert("L")
    heads = grid.crop((left, 0, grid.width, top)).convert("L")
    assert names.getextrema()[0] < 128  # something is written there
    assert heads.getextrema()[0] < 128


def test_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        label_grid([[RED]], ["LoRA"], ["base", "step 50"])
