"""Which image files are decoded: bounds on their pixels that are known before a pixel is read."""

from __future__ import annotations

MOST_PIXELS = 100_000_000  # decoded at once, which takes up to about 1 GB with its conversion
MOST_JPEG_PIXELS = 1_000_000_000  # in the file of a baseline JPEG, which is decoded at down to 1/8 of its sides
# Formats of small images, of which larger ones are made to fill a memory.
MOST_OF = {"GIF": 25_000_000}
# From this size on a file must have something for its pixels: photographs take a byte for 10 to 150 of them, drawings
# in black and white for up to 1,000, and one colour alone for millions.
LARGE_PIXELS = 25_000_000
PIXELS_PER_BYTE = 2000


def too_large(kind: str, width: int, height: int, file_bytes: int, scaled: bool = False) -> str:
    """Why an image of this format and size is not decoded, with what to do; "" where it is.

    `scaled`: a JPEG that can be decoded at a fraction of its size.
    """
    pixels = width * height
    limit = MOST_JPEG_PIXELS if scaled else MOST_OF.get(kind, MOST_PIXELS)
    if pixels > limit:
        return (
            f"{width} x {height} is {pixels / 1e6:.0f} megapixels, and of {kind} at most {limit / 1e6:.0f} are read; "
            "save a smaller copy"
        )
    if pixels > LARGE_PIXELS and not scaled and file_bytes * PIXELS_PER_BYTE < pixels:
        return (
            f"{width} x {height} is {pixels / 1e6:.0f} megapixels in {file_bytes:,} bytes, which is one colour or made "
            "to fill the memory; save a smaller copy"
        )
    return ""
