"""Small files of huge images: refused by their header, in a sentence with the file's name, in a training folder and
as a thumbnail."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from adapter_lab.api.errors import TooLarge
from adapter_lab.api.pictures import thumbnail
from adapter_lab.picture_size import too_large
from adapter_lab.training.dataset.images import PictureError, inspect_picture


def gif(path: Path) -> None:
    """360 bytes: a screen of 90 megapixels around frames of one pixel."""
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\x00\x02\x02\x44\x01\x00"
    path.write_bytes(
        b"GIF89a" + struct.pack("<HH", 10_000, 9_000) + b"\x80\x00\x00" + bytes(3) + b"\xff" * 3 + frame * 20 + b"\x3b"
    )


def png(path: Path) -> None:
    """About 12 KB: 99 megapixels of one colour at one bit each."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    side = 9_950
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + -(-side // 8))), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def bmp(path: Path) -> None:
    """A header of 90 megapixels with nothing behind it."""
    Image.new("RGB", (2, 2)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", 10_000, 9_000)
    path.write_bytes(content)


def tiff(path: Path) -> None:
    """99 megapixels of one colour, run-length encoded."""
    Image.new("1", (9_950, 9_950)).save(path, compression="group4")


@pytest.mark.parametrize("make", [gif, png, bmp, tiff], ids=lambda make: make.__name__)
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(make, tmp_path: Path) -> None:
    path = tmp_path / f"bomb.{make.__name__}"
    make(path)
    assert path.stat().st_size < 50_000
    begin = time.process_time()
    with pytest.raises(PictureError, match=r"bomb\.\w+: \d+ x \d+ is \d+ megapixels.*; save a smaller copy"):
        inspect_picture(path)
    if make is not tiff:  # which the page does not show
        with pytest.raises(TooLarge, match=r"bomb\.\w+ is not shown: \d+ x \d+"):
            thumbnail(path, 160)
    assert time.process_time() - begin < 1


def test_pictures_of_people_are_within_the_bounds() -> None:
    for kind, size, file_bytes in (
        ("PNG", (9_000, 9_000), 400_000),  # a large drawing of few lines
        ("PNG", (1024, 1024), 900),  # one colour, but small
        ("WEBP", (8_000, 8_000), 90_000),
        ("AVIF", (7_000, 5_000), 60_000),
        ("GIF", (4_000, 4_000), 5_000_000),
        ("TIFF", (9_900, 9_900), 150_000),  # a scanned page in black and white
    ):
        assert too_large(kind, *size, file_bytes) == "", kind
    assert too_large("JPEG", 30_000, 30_000, 90_000_000, scaled=True) == ""
    assert too_large("JPEG", 40_000, 30_000, 90_000_000, scaled=True) != ""
