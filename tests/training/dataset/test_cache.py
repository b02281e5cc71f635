from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset import Dataset, LatentCache, TextCache, scan, store
from tests.support.pictures import noise, write


def dataset(root: Path, **options: object) -> Dataset:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 16, **options}
    return scan(DatasetConfig(**settings))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for index in range(5):
        write(root, f"{index}.png", noise(*((64, 64), (96, 48))[index % 2], seed=index), caption=f"tag {index}")
    return root


class Encoder:
    """Stands in for a VAE: not mirror-symmetric, and counts what it is given."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(pixels)
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        mean = torch.cat([small, small[:, :1]], dim=1) + torch.arange(small.shape[3]) / 10
        return mean, mean.abs() / 7


def fill(root: Path, cache: LatentCache | None = None, **options: object) -> tuple[int, int, list[str]]:
    """Fill a new cache as a new run would; what was made and found, and the remarks."""
    data = dataset(root, **options)
    cache = cache or LatentCache(data.cache_folder, "vae")
    encoder = Encoder()
    report = cache.fill(data.cache_samples(), encoder, batch_size=2)
    assert encoder.seen == report.made
    assert not cache.missing(data.cache_samples())
    return report.made, report.found, report.remarks


def entries(root: Path, kind: str = "latents") -> list[Path]:
    return sorted((root / ".adapter-lab-cache" / kind).glob("*/*.safetensors"))


def test_a_second_run_finds_everything(pictures: Path) -> None:
    assert fill(pictures) == (5, 0, [])
    assert fill(pictures) == (0, 5, [])
    assert len(entries(pictures)) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("on_disk", [True, False])
def test_latents_come_back_as_encoded(pictures: Path, dtype: torch.dtype, on_disk: bool) -> None:
    data = dataset(pictures)
    cache = LatentCache(data.cache_folder if on_disk else None, "vae", dtype)
    cache.fill(data.cache_samples(), Encoder(), batch_size=3)
    if on_disk:
        cache = LatentCache(data.cache_folder, "vae", dtype)
    from adapter_lab.training.dataset import load_pixels

    for sample in data.cache_samples():
        cached = cache.get(sample)
        mean, std = Encoder()(load_pixels(sample)[0][None])
        assert cached is not None and cached.mask is None
        assert torch.equal(cached.mean, mean[0].to(dtype)) and torch.equal(cached.std, std[0].to(dtype))


def replace_picture(root: Path) -> None:
    write(root, "1.png", noise(96, 48, seed=77))


def rename_picture(root: Path) -> None:
    (root / "1.png").rename(root / "renamed.png")


def touch_picture(root: Path) -> None:
    os.utime(root / "1.png", ns=(time.time_ns(), time.time_ns() + 10**9))


def add_picture(root: Path) -> None:
    write(root, "new.png", noise(64, 64, seed=78))


def change_caption(root: Path) -> None:
    (root / "1.txt").write_text("changed")


@pytest.mark.parametrize(
    ("change", "options", "made"),
    [
        (replace_picture, {}, 1),
        (rename_picture, {}, 0),
        (touch_picture, {}, 0),
        (add_picture, {}, 1),
        (change_caption, {}, 0),
        (None, {"repeats": 7, "shuffle_tags": True}, 0),
        (None, {"flip": True}, 5),
        (None, {"bucket_step": 32}, 2),
        (None, {"buckets": False}, 2),
    ],
)
def test_only_what_changed_is_encoded_again(
    pictures: Path, change: Callable[[Path], None] | None, options: dict, made: int
) -> None:
    fill(pictures)
    if change is not None:
        change(pictures)
    assert fill(pictures, **options)[0] == made


@pytest.mark.parametrize("on_disk", [True, False])
def test_entries_are_copies_also_where_the_encoder_gives_views(pictures: Path, on_disk: bool) -> None:
    data = dataset(pictures)
    cache = LatentCache(data.cache_folder if on_disk else None, "vae")
    moments = torch.rand(2, 8, 8, 8)
    mean, std = moments.chunk(2, dim=1)
    sample = data.cache_samples()[0]
    cache.put(sample, mean[1], std[1])
    expected = mean[1].clone()
    moments.zero_()
    cached = cache.get(sample)
    assert cached is not None and torch.equal(cached.mean, expected)
    assert cached.mean.untyped_storage().nbytes() <= 2 * expected.numel() * 4 + 1024
    cache.put(sample, expected, expected)


def test_another_vae_or_number_format_has_entries_of_its_own(pictures: Path) -> None:
    folder = dataset(pictures).cache_folder
    assert fill(pictures)[0] == 5
    assert fill(pictures, LatentCache(folder, "another"))[0] == 5
    assert fill(pictures, LatentCache(folder, "vae", torch.float16))[0] == 5
    assert fill(pictures)[0] == 0


def test_copies_of_a_picture_are_encoded_once(pictures: Path) -> None:
    write(pictures, "copy.png", noise(64, 64, seed=0))
    assert fill(pictures)[:2] == (5, 0)


def test_a_mirrored_picture_has_its_own_encoding(pictures: Path) -> None:
    data = dataset(pictures, flip=True)
    cache = LatentCache(data.cache_folder, "vae")
    cache.fill(data.cache_samples(), Encoder())
    for sample in data.cache_samples():
        mirrored, plain = cache.get(replace(sample, flip=True)), cache.get(replace(sample, flip=False))
        assert mirrored is not None and plain is not None
        assert not torch.allclose(mirrored.mean, plain.mean.flip(2), atol=0.05)
    used = [sample for batch in data.plan(0, 2, 0) for sample in batch.items]
    assert all(cache.get(sample) is not None for sample in used)


def test_masks_are_kept_with_latents_and_part_of_their_key(pictures: Path) -> None:
    mask = noise(64, 64, seed=9).convert("L")
    write(pictures, "masks/0.png", mask)
    data = dataset(pictures, mask="file")
    cache = LatentCache(data.cache_folder, "vae")
    cache.fill(data.cache_samples(), Encoder(), batch_size=5)
    masks = {sample.item.path.name: getattr(cache.get(sample), "mask", None) for sample in data.cache_samples()}
    assert masks["0.png"].shape == (1, 8, 8) and masks["2.png"] is None
    write(pictures, "masks/0.png", noise(64, 64, seed=10).convert("L"))
    assert fill(pictures, mask="file")[:2] == (1, 4)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 0xFF
    path.write_bytes(content)


def garble_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:20] = b"\xff" * 12
    path.write_bytes(content)


def oversize_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff" * 8
    path.write_bytes(content)


def swap(path: Path) -> None:
    others = [other for other in path.parent.parent.glob("*/*.safetensors") if other != path]
    path.write_bytes(others[0].read_bytes())


@pytest.mark.parametrize("damage", [truncate, empty, garble, garble_header, oversize_header, swap])
def test_broken_entries_are_made_again_and_said(pictures: Path, damage: Callable[[Path], None]) -> None:
    fill(pictures)
    damage(entries(pictures)[2])
    cache = LatentCache(dataset(pictures).cache_folder, "vae")
    assert sum(cache.get(sample) is None for sample in dataset(pictures).cache_samples()) == 1
    made, found, (remark,) = fill(pictures)
    assert (made, found) == (1, 4)
    assert "1 broken entry" in remark and str(pictures) in remark
    assert fill(pictures) == (0, 5, [])


def no_room(monkeypatch: pytest.MonkeyPatch, error: int, after: int = 0) -> None:
    """The disk takes `after` more files, then refuses."""
    replace, count = os.replace, 0

    def refuse(temporary: Path, path: Path) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(error, os.strerror(error))
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize(
    ("error", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")],
)
def test_without_disk_space_the_rest_is_kept_in_memory_and_said(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, error: int, words: str
) -> None:
    data = dataset(pictures)
    cache = LatentCache(data.cache_folder, "vae")
    no_room(monkeypatch, error, after=2)
    made, _, (remark,) = fill(pictures, cache)
    assert made == 5 and words in remark and "kept in memory" in remark and "dataset.cache_folder" in remark
    assert all(cache.get(sample) is not None for sample in data.cache_samples())
    monkeypatch.undo()
    assert len(entries(pictures)) == 2
    assert not list((pictures / ".adapter-lab-cache/latents/partial").iterdir())
    assert fill(pictures) == (3, 2, [])


def test_without_disk_space_and_memory_it_stops_with_a_remedy(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LatentCache(dataset(pictures).cache_folder, "vae")
    no_room(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr(store, "_available_memory", lambda: 1 << 20)
    with pytest.raises(DatasetError, match=r"memory is left.*make room there or set dataset\.cache_folder"):
        fill(pictures, cache)
    with pytest.raises(DatasetError, match=r"set dataset\.cache_latents to `disk` or `off`"):
        fill(pictures, LatentCache(None, "vae"))


def test_a_cache_folder_that_is_a_file_does_not_stop_training(pictures: Path) -> None:
    (pictures / ".adapter-lab-cache").write_text("in the way")
    data = dataset(pictures)
    assert any("could not be written" in warning for warning in data.warnings)
    assert fill(pictures)[0] == 5


def test_what_a_killed_run_left_behind_is_removed_after_a_day(pictures: Path) -> None:
    fill(pictures)
    partial = pictures / ".adapter-lab-cache/latents/partial"
    old, new = partial / "old", partial / "new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    fill(pictures)
    assert not old.exists() and new.exists()


def test_no_files_are_written_beside_the_pictures_unless_asked(pictures: Path) -> None:
    before = sorted(pictures.rglob("*"))
    for kept in ("memory", "off"):
        data = dataset(pictures, cache_latents=kept)
        assert data.cache_folder is None
        fill(pictures, LatentCache(data.cache_folder, "vae"), cache_latents=kept)
    assert sorted(pictures.rglob("*")) == before
    elsewhere = pictures.parent / "elsewhere"
    fill(pictures, cache_folder=str(elsewhere))
    assert sorted(pictures.rglob("*")) == before
    assert len(list(elsewhere.glob("latents/*/*.safetensors"))) == 5


@dataclass
class Output:
    hidden: Tensor
    pooled: Tensor | None


class TextEncoder:
    def __init__(self, pooled: bool = True) -> None:
        self.seen: list[str] = []
        self.with_pooled = pooled

    def __call__(self, captions: list[str]) -> Output:
        self.seen += captions
        hidden = torch.tensor([[float(len(caption))] * 3 for caption in captions])[:, None].expand(-1, 77, -1)
        return Output(hidden, hidden[:, 0] if self.with_pooled else None)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
def test_text_outputs_are_kept_by_caption(tmp_path: Path, pooled: bool, on_disk: bool) -> None:
    captions = ["", "a cat", "日本 \ud800", "a cat", "x" * 3000]
    cache = TextCache(tmp_path if on_disk else None, "te")
    encoder = TextEncoder(pooled)
    report = cache.fill(captions, encoder, batch_size=2)
    assert (report.made, report.found, report.remarks) == (4, 0, [])
    assert encoder.seen == list(dict.fromkeys(captions))
    if on_disk:
        cache = TextCache(tmp_path, "te")
    assert cache.fill(captions, encoder).made == 0
    for caption in captions:
        cached = cache.get(caption)
        assert cached is not None and cached.hidden.shape == (77, 3)
        assert cached.hidden[0, 0] == len(caption)
        assert (cached.pooled is not None) == pooled
    assert cache.get("another") is None


@pytest.mark.parametrize(
    "other",
    [
        {"text_key": "another"},
        {"chunks": 2},
        {"clip_skip": 1},
        {"dtype": torch.float16},
    ],
)
def test_text_outputs_of_other_encoders_or_settings_are_not_mixed_up(tmp_path: Path, other: dict) -> None:
    TextCache(tmp_path, "te").fill(["a"], TextEncoder())
    assert TextCache(tmp_path, **{"text_key": "te", **other}).missing(["a"]) == ["a"]
    assert TextCache(tmp_path, "te").missing(["a"]) == []
