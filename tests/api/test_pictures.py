"""Images over HTTP: small, turned, of images only, and never from a folder that may not be shown."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from adapter_lab.api import Context
from tests.support.pictures import quarters, write


def _small(client: TestClient, path: Path, size: int = 160) -> Image.Image:
    answer = client.get("/dataset/thumbnail", params={"path": str(path), "size": size})
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp", answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "A.PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_every_kind_of_picture_becomes_a_small_one(name: str, mode: str, client: TestClient, tmp_path: Path) -> None:
    if mode in ("RGBA", "P") and name in ("a.jpg", "a.bmp"):
        mode = "RGB"
    path = write(tmp_path, name, quarters(300, 100).convert(mode))
    small = _small(client, path)
    assert small.size == (160, 53) and small.mode in ("RGB", "RGBA")


def test_pictures_are_turned_as_the_camera_says_and_never_enlarged(client: TestClient, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert _small(client, write(tmp_path, "a.jpg", quarters(300, 100), exif=exif)).size == (53, 160)
    assert _small(client, write(tmp_path, "b.png", quarters(20, 10))).size == (20, 10)


def test_a_picture_that_would_fill_the_memory_is_not_decoded(client: TestClient, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)))
    answer = client.get("/dataset/thumbnail", params={"path": str(path)})
    assert answer.status_code in (404, 413) and "bomb.png" in answer.json()["error"]


def test_a_picture_above_the_limit_is_refused_before_it_is_read(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapter_lab.picture_size.MOST_PIXELS", 99)
    path = write(tmp_path, "a.png", quarters(10, 10))
    answer = client.get("/dataset/thumbnail", params={"path": str(path)})
    assert answer.status_code == 413 and "10 x 10" in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"secret"),
        ("a.png", b"secret"),
        ("a.png", b""),
        ("a.avif", b"\0\0\0\x20ftypavif" + b"secret" * 20),
        ("a.webp", b"RIFF\x20\0\0\0WEBPVP8 secret"),
        ("a.svg", b"<svg/>"),
        ("a.eps", b"%!PS"),
        ("gone.png", None),
    ],
)
def test_what_is_no_picture_is_not_shown(name: str, content: bytes | None, client: TestClient, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    answer = client.get("/dataset/thumbnail", params={"path": str(tmp_path / name)})
    assert answer.status_code == 404 and name in answer.json()["error"] and "secret" not in answer.text


@pytest.mark.parametrize("path", ["", ".", "/", "a\0.png", "/" + "x" * 5000 + ".png", "\0"])
def test_what_is_no_path_is_refused(path: str, client: TestClient) -> None:
    assert client.get("/dataset/thumbnail", params={"path": path}).status_code in (400, 403, 404)


def test_a_cut_picture_is_said(client: TestClient, tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", quarters(300, 300))
    path.write_bytes(path.read_bytes()[:200])
    assert client.get("/dataset/thumbnail", params={"path": str(path)}).status_code == 404


def test_a_picture_is_sent_again_only_when_it_has_changed(client: TestClient, tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", quarters(30, 30))
    tag = client.get("/dataset/thumbnail", params={"path": str(path)}).headers["etag"]
    again = client.get("/dataset/thumbnail", params={"path": str(path)}, headers={"If-None-Match": tag})
    assert again.status_code == 304 and not again.content
    write(tmp_path, "a.png", quarters(60, 30))
    assert (
        client.get("/dataset/thumbnail", params={"path": str(path)}, headers={"If-None-Match": tag}).status_code == 200
    )


def test_strangers_see_pictures_of_the_allowed_folders_only(
    client: TestClient, context: Context, tmp_path: Path
) -> None:
    context.public = lambda: True
    secret = write(tmp_path / "private", "a.png", quarters(30, 30))
    link = context.worker.root / "link.png"
    link.symlink_to(secret)
    for path in (secret, link, context.worker.root / ".." / "private" / "a.png"):
        answer = client.get("/dataset/thumbnail", params={"path": str(path)})
        assert answer.status_code == 403 and "--folder" in answer.json()["error"]
    context.folders = lambda: [tmp_path / "private"]
    assert _small(client, secret).size == (30, 30)
    beside = write(tmp_path / "private-too", "a.png", quarters(30, 30))
    assert client.get("/dataset/thumbnail", params={"path": str(beside)}).status_code == 403


def test_a_request_by_a_further_name_counts_as_a_strangers(app, context: Context, tmp_path: Path) -> None:
    context.names = lambda: ["tunnel.example"]
    path = write(tmp_path / "private", "a.png", quarters(30, 30))
    client = TestClient(app, base_url="https://tunnel.example/adapter-lab/v1")
    assert client.get("/status").json()["allow_paths"] is False
    assert client.get("/dataset/thumbnail", params={"path": str(path)}).status_code == 403
