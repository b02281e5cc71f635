from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageCms

from adapter_lab.training.dataset import images
from adapter_lab.training.dataset.images import PictureError, inspect_picture, read_mask, read_picture
from tests.support.pictures import BLUE, GREEN, GREY, RED, corners, noise, quarters, write

WHITE = (255, 255, 255)


def close(one: list[tuple[int, ...]], other: list[tuple[int, ...]], tolerance: int = 6) -> bool:
    return all(abs(a - b) <= tolerance for left, right in zip(one, other) for a, b in zip(left, right))


@pytest.mark.parametrize("suffix", [suffix for suffix in images.PICTURE_SUFFIXES if suffix != ".jxl"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not images.supported(suffix):  # Pillow before 11.3 without its add-on
        with pytest.raises(PictureError, match="install pillow-avif-plugin"):
            inspect_picture(tmp_path / "a.avif")
        return
    path = write(tmp_path, f"a{suffix}", quarters(64, 48))
    info = inspect_picture(path)
    assert (info.width, info.height, info.has_alpha, info.is_animated) == (64, 48, False, False)
    picture, alpha = read_picture(path, (64, 48))
    assert picture.mode == "RGB" and alpha is None
    assert close(corners(picture), [RED, GREEN, BLUE, GREY], 20)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_cut_picture_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    if not images.supported(suffix):
        pytest.skip(f"this Pillow cannot write {suffix}")
    path = write(tmp_path, f"a{suffix}", quarters(640, 480))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(16, int(len(whole) * share))])
    with pytest.raises(PictureError, match=f"a{suffix}"):
        inspect_picture(path)


def test_a_format_this_pillow_cannot_read_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "a.png")
    path = path.rename(path.with_suffix(".jxl"))
    known = {suffix: name for suffix, name in Image.registered_extensions().items() if suffix != ".jxl"}
    monkeypatch.setattr(Image, "registered_extensions", lambda: known)
    with pytest.raises(PictureError, match=r"cannot read \.jxl here; save it as PNG, or install pillow-jxl-plugin"):
        inspect_picture(path)


UPRIGHT = [RED, GREEN, BLUE, GREY]
STORED = {  # how the file stores an upright image under each EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_rotation_is_honoured(tmp_path: Path, orientation: int, suffix: str) -> None:
    picture = quarters(96, 64)
    turn = STORED[orientation]
    stored = picture if turn is None else picture.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, f"a{suffix}", stored, exif=exif)
    info = inspect_picture(path)
    assert (info.width, info.height) == (96, 64)
    assert close(corners(read_picture(path, (96, 64))[0]), UPRIGHT, 20)


def palette(transparent: bool) -> Image.Image:
    picture = quarters(64, 48).quantize(8)
    if transparent:
        picture.info["transparency"] = picture.getpixel((1, 1))
    return picture


def with_alpha(picture: Image.Image, alpha: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


def left_half(size: tuple[int, int]) -> Image.Image:
    """A mask that is white on the left half, black on the right."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def sixteen_bit_grey() -> Image.Image:
    values = numpy.full((48, 64), 0x1000, dtype=numpy.uint16)
    values[:, 32:] = 0xC0FF
    return Image.fromarray(values)


GREY_OF = [quarters(64, 48).convert("L").getpixel(place) for place in ((1, 1), (60, 1), (1, 40), (60, 40))]
MODES: dict[str, tuple[Callable[[], Image.Image], str, list[tuple[int, ...]]]] = {
    "palette": (lambda: palette(False), "png", UPRIGHT),
    "palette with a transparent colour": (lambda: palette(True), "png", [WHITE, GREEN, BLUE, GREY]),
    "grey": (lambda: quarters(64, 48).convert("L"), "png", [(value,) * 3 for value in GREY_OF]),
    "grey with alpha": (
        lambda: with_alpha(Image.new("L", (64, 48), 50), left_half((64, 48))),
        "png",
        [(50, 50, 50), WHITE, (50, 50, 50), WHITE],
    ),
    "black and white": (lambda: left_half((64, 48)).convert("1"), "png", [WHITE, (0, 0, 0)] * 2),
    "alpha": (
        lambda: with_alpha(quarters(64, 48), left_half((64, 48))),
        "png",
        [RED, WHITE, BLUE, WHITE],
    ),
    "half transparent": (
        lambda: with_alpha(Image.new("RGB", (64, 48), (0, 0, 0)), Image.new("L", (64, 48), 51)),
        "png",
        [(204, 204, 204)] * 4,
    ),
    "16-bit grey": (sixteen_bit_grey, "png", [(0x10,) * 3, (0xC0,) * 3] * 2),
    "16-bit grey TIFF": (sixteen_bit_grey, "tif", [(0x10,) * 3, (0xC0,) * 3] * 2),
    "CMYK TIFF": (lambda: quarters(64, 48).convert("CMYK"), "tif", UPRIGHT),
    "CMYK JPEG": (lambda: quarters(64, 48).convert("CMYK"), "jpg", UPRIGHT),
    "float TIFF": (lambda: Image.new("F", (64, 48), 0.5), "tif", [(128, 128, 128)] * 4),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_colour_mode_is_converted_rightly(tmp_path: Path, mode: str) -> None:
    make, suffix, expected = MODES[mode]
    path = write(tmp_path, f"a.{suffix}", make())
    inspect_picture(path)
    picture, _ = read_picture(path, (64, 48))
    assert picture.mode == "RGB"
    assert close(corners(picture), expected, 20 if suffix == "jpg" else 3)


def test_16_bit_colour_keeps_its_upper_bits(tmp_path: Path) -> None:
    """Pillow cannot write 16-bit RGB, so the PNG is put together by hand."""
    row = b"\x00" + struct.pack(">3H", 0xFFFF, 0x8000, 0x1234) * 20
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 20, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 20)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert read_picture(path, (20, 20))[0].getpixel((3, 3)) == (0xFF, 0x80, 0x12)


def test_a_wide_gamut_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    """A linear-light profile stands for any other: its 55 is what sRGB writes as about 128."""
    profile = linear_profile()
    path = write(tmp_path, "a.png", Image.new("RGB", (32, 32), (55, 55, 55)), icc_profile=profile)
    assert close([read_picture(path, (32, 32))[0].getpixel((5, 5))], [(127, 127, 127)], 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = write(tmp_path, "b.png", Image.new("RGB", (32, 32), (55, 99, 200)), icc_profile=srgb)
    assert read_picture(path, (32, 32))[0].getpixel((5, 5)) == (55, 99, 200)


def linear_profile() -> bytes:
    """sRGB's primaries with a gamma of 1, made by rewriting the tone curves of Pillow's sRGB profile."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (count,) = struct.unpack_from(">I", content, 128)
    curve = b"curv" + bytes(4) + struct.pack(">I", 0) + bytes(4)  # an empty curve is the identity
    result = bytearray(content)
    for index in range(count):
        name, offset, size = struct.unpack_from(">4s2I", content, 132 + 12 * index)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            result[offset : offset + size] = curve + bytes(size - len(curve))
        if name == b"desc":
            result[offset : offset + size] = content[offset : offset + size].replace(
                "sRGB".encode("utf-16-be"), bytes(8)
            )
    return bytes(result)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L", "RGBA"])
@pytest.mark.parametrize("profile", [b"broken", b"x" * 500])
def test_a_broken_profile_leaves_plain_conversion(tmp_path: Path, mode: str, profile: bytes) -> None:
    path = write(tmp_path, "a.tif", quarters(64, 48).convert(mode), icc_profile=profile)
    inspect_picture(path)
    expected = UPRIGHT if mode != "L" else [(value,) * 3 for value in GREY_OF]
    assert close(corners(read_picture(path, (64, 48))[0]), expected, 3)


def test_cmyk_goes_through_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No CMYK profile ships with Pillow, so the conversion is watched at the call to littlecms."""
    calls = []

    def convert(image: Image.Image, source: object, target: object, outputMode: str) -> Image.Image:
        calls.append((image.mode, outputMode))
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    path = write(tmp_path, "a.jpg", quarters(64, 48).convert("CMYK"), icc_profile=linear_profile())
    assert read_picture(path, (32, 24))[0].getpixel((3, 3)) == (1, 2, 3)
    assert calls == [("CMYK", "RGB")]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_is_used_and_said(tmp_path: Path, suffix: str) -> None:
    frames = [quarters(64, 48), Image.new("RGB", (64, 48), WHITE), noise(64, 48)]
    path = write(tmp_path, f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=50)
    assert inspect_picture(path).is_animated
    assert close(corners(read_picture(path, (64, 48))[0]), UPRIGHT, 25)


def encoded(suffix: str, picture: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture or noise(100, 80)).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """The head of a PNG of 200 megapixels; its pixels must never be asked for."""
    head = struct.pack(">2I5B", 14143, 14143, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def flipped_bytes(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 40]) + content[middle + 40 :]


BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "an empty file": ("png", lambda: b"", r"empty \(0 bytes\)"),
    "text": ("png", lambda: b"this is no picture", "not an image"),
    "a web page": ("jpg", lambda: b"<!DOCTYPE html><html></html>", "not an image"),
    "an EPS, which would start Ghostscript": (
        "png",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not a",
    ),
    "half a PNG": ("png", lambda: encoded("png")[:9000], "cut off|cannot be decoded"),
    "half a JPEG": ("jpg", lambda: encoded("jpg")[:4000], "cut off"),
    "half a WebP": ("webp", lambda: encoded("webp")[:2000], "cannot be decoded|not an image"),
    "half a BMP": ("bmp", lambda: encoded("bmp")[:4000], "cut off|cannot be decoded"),
    "half a GIF": ("gif", lambda: encoded("gif")[:3000], "cut off|cannot be decoded"),
    "half a TIFF": ("tif", lambda: encoded("tiff")[:4000], "cut off|cannot be decoded|not an image"),
    "the head of a JPEG": ("jpg", lambda: encoded("jpg")[:20], "cut off|not an image"),
    "a PNG with damaged bytes": ("png", lambda: flipped_bytes(encoded("png")), "cannot be decoded"),
    "200 megapixels": ("png", huge_png, "14143 x 14143 is 200 megapixels"),
    "nothing visible": ("png", lambda: encoded("png", Image.new("RGBA", (50, 50), (9, 9, 9, 0))), "fully transparent"),
    "32-bit integers": ("tif", lambda: encoded("tiff", Image.new("I", (50, 50), 1 << 20)), "more than 16 bits"),
    "floats of any range": ("tif", lambda: encoded("tiff", Image.new("F", (50, 50), 7.5)), "floating-point"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_pictures_get_a_sentence_with_file_and_remedy(tmp_path: Path, what: str) -> None:
    suffix, make, words = BROKEN[what]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(make())
    with pytest.raises(PictureError, match=words) as caught:
        inspect_picture(path)
    assert str(path) in str(caught.value)
    assert any(verb in caught.value.reason for verb in ("remove", "save"))


def test_missing_files_and_broken_links_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(PictureError, match="No such file"):
        inspect_picture(tmp_path / "a.png")


def test_broken_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg", quarters(64, 48), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert inspect_picture(path).width == 64


def test_a_picture_that_changed_since_the_scan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", noise(40, 30))
    with pytest.raises(PictureError, match="has changed"):
        read_picture(path, (40, 30), expected=(30, 40))


def test_progressive_jpeg_is_held_to_the_lower_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder keeps all coefficients whatever the size asked for."""
    monkeypatch.setattr("adapter_lab.picture_size.MOST_PIXELS", 1000)
    write(tmp_path, "plain.jpg", noise(100, 80))
    write(tmp_path, "progressive.jpg", noise(100, 80), progressive=True)
    assert inspect_picture(tmp_path / "plain.jpg").width == 100
    with pytest.raises(PictureError, match="progressive JPEG"):
        inspect_picture(tmp_path / "progressive.jpg")


MEASURE = """
import re, sys
from pathlib import Path
from adapter_lab.training.dataset.images import inspect_picture, read_picture
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
info = inspect_picture(Path(sys.argv[1]))
picture, _ = read_picture(Path(sys.argv[1]), (1024, 1024))
grown = peak() - before
print(info.width * info.height, picture.getpixel((700, 700)), grown)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_200_megapixel_jpeg_is_used_in_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg", Image.new("L", (14143, 14143), 90))
    command = [sys.executable, "-c", MEASURE, str(path)]
    pixels, colour, kilobytes = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace(", ", ",").split()
    )
    assert int(pixels) == 14143**2
    assert colour == "(90,90,90)"
    assert int(kilobytes) < 150_000


def test_transparent_colours_do_not_bleed_into_edges_when_resized(tmp_path: Path) -> None:
    """A red disc cut out of green, the green hidden by alpha: no green shows over white."""
    picture = Image.new("RGB", (400, 400), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 200, 400))
    path = write(tmp_path, "a.png", with_alpha(picture, left_half((400, 400))))
    values = numpy.asarray(read_picture(path, (50, 50))[0]).astype(int)
    assert (values[..., 0] >= 250).all()
    assert (abs(values[..., 1] - values[..., 2]) <= 2).all()


def test_alpha_as_mask_keeps_the_colours_below(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", with_alpha(quarters(64, 48), left_half((64, 48))))
    picture, alpha = read_picture(path, (64, 48), alpha_is_mask=True)
    assert close(corners(picture), UPRIGHT, 1)
    assert alpha is not None and [pixel[0] for pixel in corners(alpha)] == [255, 0, 255, 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "RGBA", "I;16"])
def test_masks_of_any_mode_are_read_as_grey(tmp_path: Path, mode: str) -> None:
    mask = left_half((64, 48))
    if mode == "RGBA":
        mask = with_alpha(Image.new("RGB", (64, 48), WHITE), mask)
    elif mode == "I;16":
        mask = Image.fromarray(numpy.asarray(mask).astype(numpy.uint16) * 257)
    path = write(tmp_path, "a.png", mask.convert(mode) if mode not in ("RGBA", "I;16") else mask)
    assert [pixel[0] for pixel in corners(read_mask(path, (32, 24)))] == [255, 0, 255, 0]
