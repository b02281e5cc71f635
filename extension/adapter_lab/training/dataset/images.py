"""Image files: what can be read, how large, and each of them as 8-bit sRGB the right way up.

Memory is bounded: `picture_size` says how many pixels are decoded, and large images are decoded one at a time. JPEGs
are decoded at a fraction of their size where training needs no more (DCT scaling), so even very large ones can be used.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL
from PIL import Image, ImageCms

from adapter_lab.errors import FileFormatError
from adapter_lab.picture_size import LARGE_PIXELS, too_large
from adapter_lab.training.dataset.buckets import Size

_large_pictures = threading.Lock()

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".avif", ".jxl", ".gif", ".tif", ".tiff")
# Read by add-ons or newer versions of Pillow only; the package that adds each.
_ADD_ONS = {".avif": ("pillow_avif", "pillow-avif-plugin"), ".jxl": ("pillow_jxl", "pillow-jxl-plugin")}
# People keep these beside their images; they are listed as skipped instead of passed over.
UNREAD_SUFFIXES = (
    ".heic", ".heif", ".jp2", ".psd", ".xcf", ".kra", ".svg", ".tga", ".dds", ".exr", ".hdr", ".ico", ".qoi",
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".zip", ".rar", ".7z",
)  # fmt: skip
# Pillow would also try formats that run other programs (EPS starts Ghostscript); a wrong suffix must not get there.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "AVIF", "JXL", "GIF", "TIFF")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

for _module, _ in _ADD_ONS.values():
    with contextlib.suppress(ImportError):
        importlib.import_module(_module)
Image.init()
# The limits above take the place of Pillow's, which raise before an image's size can be told.
Image.MAX_IMAGE_PIXELS = None


class PictureError(FileFormatError):
    """An image that cannot be used; `reason` says why and what to do, the message also names the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What an image file holds: its size (after EXIF rotation) and what is worth saying about it."""

    width: int
    height: int
    has_alpha: bool
    is_animated: bool
    is_black: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def supported(suffix: str) -> bool:
    """Whether images with this (lower-case) suffix can be read here."""
    return suffix in PICTURE_SUFFIXES and suffix in Image.registered_extensions()


def inspect_picture(path: Path) -> PictureInfo:
    """Decode the whole image once, JPEG at 1/8 of its sides, and say what it is.

    Raises PictureError when it cannot be used for training whatever the settings.
    """
    suffix = path.suffix.lower()
    if not supported(suffix):
        raise PictureError(path, _unsupported(suffix))
    with _decoded(path, (1, 1), verify=True) as (image, size, animated):
        has_alpha = image.mode == "RGBA"
        if has_alpha and image.getchannel("A").getextrema()[1] == 0:
            raise PictureError(path, "fully transparent, so there is nothing to learn; remove it")
        # A colour profile or mode that cannot be converted shows on a few pixels as well as on all.
        _to_srgb(image.resize((8, 8), Image.Resampling.NEAREST), image.info.get("icc_profile"))
        is_black = image.convert("L").getextrema() == (0, 0)
        return PictureInfo(size[0], size[1], has_alpha, animated, is_black)


def read_picture(
    path: Path, resized: Size, alpha_is_mask: bool = False, expected: Size | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """The image in 8-bit sRGB at size `resized` (w, h), and its alpha channel (mode L) where that is a mask.

    Alpha is otherwise laid over white. As a mask it leaves the colours as they are stored, so that what is masked out
    still surrounds the rest. Raises PictureError, also when the image's own size is not the `expected` one.
    """
    with _decoded(path, resized) as (image, size, _):
        if expected not in (None, size):
            raise PictureError(path, "has changed since the folder was read; start again")
        profile = image.info.get("icc_profile")
        alpha = None
        if alpha_is_mask and image.mode == "RGBA":
            alpha = image.getchannel("A").resize(resized, Image.Resampling.BOX)
            image = image.convert("RGB")
        # Pillow weights colours by alpha while it resizes RGBA, so hidden colours do not bleed into the edges.
        image = _to_srgb(image.resize(resized, Image.Resampling.LANCZOS), profile)
        if image.mode == "RGBA":
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image).convert("RGB")
        return image, alpha


def read_mask(path: Path, resized: Size) -> Image.Image:
    """A mask image as greyscale (mode L; white: learned, black: not) at size `resized`; raises PictureError."""
    with _decoded(path, resized) as (image, _, _):
        if image.mode == "RGBA":
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image)
        return image.convert("L").resize(resized, Image.Resampling.BOX)


@contextlib.contextmanager
def _decoded(path: Path, needed: Size, verify: bool = False) -> Iterator[tuple[Image.Image, Size, bool]]:
    """The first frame in mode L, RGB, RGBA or CMYK, upright, at `needed` pixels or more; its full size; if animated."""
    with contextlib.ExitStack() as stack:
        try:
            image = stack.enter_context(Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]))
            if verify and image.format == "PNG":
                # Decoding does not look at PNG's checksums. Pillow wants the file opened for this alone.
                with Image.open(path, formats=["PNG"]) as checked:
                    checked.verify()
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            _check_size(path, image)
            if image.width * image.height > LARGE_PIXELS:
                stack.enter_context(_large_pictures)
            upright, size = _decode(image, needed)
        except PictureError:
            raise
        except Exception as error:  # decoders raise nearly anything on broken files: struct.error, SyntaxError, ...
            raise PictureError(path, _explain(path, error)) from error
        yield upright, size, animated


def _decode(image: Image.Image, needed: Size) -> tuple[Image.Image, Size]:
    turn = _orientation(image)
    swapped = turn in (5, 6, 7, 8)
    size = (image.height, image.width) if swapped else image.size
    wanted = needed[::-1] if swapped else needed
    # For JPEG alone. Twice the size leaves the last halving to a better filter than the DCT's.
    image.draft(None, (2 * wanted[0], 2 * wanted[1]))
    profile = image.info.get("icc_profile")
    image.load()
    eight_bit = _eight_bit(image)
    if turn in _TURNS:
        eight_bit = eight_bit.transpose(_TURNS[turn])
    eight_bit.info["icc_profile"] = profile
    return eight_bit, size


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF data says nothing about the image itself
        return 1


def _check_size(path: Path, image: Image.Image) -> None:
    progressive = bool(image.info.get("progressive") or image.info.get("progression"))
    kind = "progressive JPEG" if progressive else str(image.format)
    scaled = image.format in ("JPEG", "MPO") and not progressive
    if reason := too_large(kind, *image.size, path.stat().st_size, scaled):
        raise PictureError(path, reason)


def _eight_bit(image: Image.Image) -> Image.Image:
    """`image` in 8 bits per channel: L, RGB, RGBA (whatever carries transparency) or CMYK."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        return _from_integers(numpy.asarray(image))
    if mode == "F":
        return _from_floats(numpy.asarray(image))
    if mode == "RGBA" or (mode in ("L", "CMYK", "RGB") and "transparency" not in image.info):
        return image
    if mode in ("PA", "LA", "La", "RGBa") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        return image.convert("RGBA")
    return image.convert("L" if mode == "1" else "RGB")


def _from_integers(values: numpy.ndarray) -> Image.Image:
    """Pillow clips 16-bit greys at 255 when it converts them; this keeps the upper 8 bits, as it does for colours."""
    if values.size and (int(values.max()) > 0xFFFF or int(values.min()) < 0):
        raise ValueError("more than 16 bits per pixel")
    return Image.fromarray((values >> 8).astype(numpy.uint8))


def _from_floats(values: numpy.ndarray) -> Image.Image:
    if not (numpy.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("floating-point values outside 0 to 1")
    return Image.fromarray((values * 255 + 0.5).astype(numpy.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` in RGB, or RGBA where it has alpha, its colours converted by an embedded profile other than sRGB."""
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    converted = _by_profile(colours, profile) if profile else None
    result = converted or colours.convert("RGB")
    if alpha:
        result.putalpha(alpha)
    return result


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """`image` converted to sRGB; None when the profile is sRGB's, broken, or belongs to other colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "srgb" in (source.profile.profile_description or "").lower():
            return None
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImportError, ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _unsupported(suffix: str) -> str:
    if suffix in _ADD_ONS:
        return f"Pillow {PIL.__version__} cannot read {suffix} here; save it as PNG, or install {_ADD_ONS[suffix][1]}"
    return f"{suffix} files are not read; save it as PNG, JPEG or WebP"


def _explain(path: Path, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "does not fit into memory; save a smaller copy"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened ({error.strerror}); check that the file is there and may be read"
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            return "empty (0 bytes); get a whole copy or remove it"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or broken at its start; get a whole copy or remove it"
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return f"cut off ({error}); get a whole copy or remove it"
    return f"cannot be decoded ({error}); open it and save it again as PNG, or remove it"
