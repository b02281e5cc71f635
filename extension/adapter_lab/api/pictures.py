"""Images for the page: files of images only, made small, and never one that would fill the memory."""

from __future__ import annotations

import io
import os
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image, ImageOps

from adapter_lab.api.errors import NotFound, TooLarge
from adapter_lab.errors import AdapterLabError
from adapter_lab.picture_size import too_large

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF", "JXL")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif", ".jxl")
MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".jxl": "image/jxl",
}
_at_once = BoundedSemaphore(2)


def picture_file(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is the file of an image by its name; raises NotFound."""
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise NotFound(f"{file} is not an image.")
    try:
        there = file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise NotFound(f"{file} is not there any more.")
    return file


def thumbnail(path: str | os.PathLike[str], size: int) -> bytes:
    """An image as WebP whose longer side has at most `size` px, turned as its camera says.

    Raises NotFound for what is no image, TooLarge for one that has too many pixels to decode.
    """
    file = picture_file(path)
    try:
        with _at_once, Image.open(file, formats=_formats()) as image:
            if reason := too_large(str(image.format), *image.size, file.stat().st_size):
                raise TooLarge(f"{file} is not shown: {reason}.")
            image.draft("RGB", (size, size))  # JPEG: decoded small at once
            image.thumbnail((size, size))
            small = ImageOps.exif_transpose(image)
            if small.mode not in ("RGB", "RGBA"):
                small = small.convert("RGBA" if "transparency" in small.info or "A" in small.mode else "RGB")
            out = io.BytesIO()
            small.save(out, "WEBP", quality=80, method=2)
    except AdapterLabError:
        raise
    except Exception as error:  # a decoder raises nearly anything
        raise NotFound(f"{file} cannot be read as an image ({error}).") from error
    return out.getvalue()


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
