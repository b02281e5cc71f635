"""The drawn training folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from adapter_lab.demo.dataset import write_demo_folder
from adapter_lab.errors import AdapterLabError


def test_forty_pictures_show_each_character_alone_and_both_together(tmp_path: Path) -> None:
    pictures = write_demo_folder(tmp_path, 40)
    captions = [picture.with_suffix(".txt").read_text(encoding="utf-8") for picture in pictures]
    alone = [sum(c.startswith("solo") and name in c for c in captions) for name in ("vexa", "orrin")]
    together = [caption for caption in captions if caption.startswith("duo")]
    assert alone == [15, 15]
    assert len(together) == 10
    assert sum(caption.index("vexa") < caption.index("orrin") for caption in together) == 5
    for picture in pictures:
        with Image.open(picture) as image:
            assert (image.format, image.size) == ("PNG", (128, 128))


def test_equal_seeds_write_equal_bytes(tmp_path: Path) -> None:
    def contents(folder: str, seed: int) -> dict[str, bytes]:
        write_demo_folder(tmp_path / folder, 8, seed)
        return {file.name: file.read_bytes() for file in sorted((tmp_path / folder).iterdir())}

    assert contents("a", 1) == contents("b", 1)
    assert contents("a", 1) != contents("c", 2)


def test_writing_again_replaces_the_same_files(tmp_path: Path) -> None:
    first = write_demo_folder(tmp_path, 8)
    assert write_demo_folder(tmp_path, 8) == first
    assert len(list(tmp_path.iterdir())) == 16


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(AdapterLabError, match=r"holiday\.jpg"):
        write_demo_folder(tmp_path, 8)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"
