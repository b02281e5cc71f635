from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset import PictureError, Sample, load_pixels, prefetch, scan, stack_masks
from adapter_lab.training.dataset.pixels import augment_colors
from adapter_lab.training.dataset.plan import fixed_sample
from tests.support.pictures import noise, quarters, write


def samples(root: Path, **options: object) -> list[Sample]:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 16, "cache_latents": "off", **options}
    return [fixed_sample(item) for item in scan(DatasetConfig(**settings)).items]


def test_pixels_are_in_minus_one_to_one_and_exact_where_nothing_is_resized(tmp_path: Path) -> None:
    picture = noise(64, 64)
    write(tmp_path, "a.png", picture)
    pixels, mask = load_pixels(samples(tmp_path)[0])
    assert mask is None and pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    expected = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).double() / 127.5 - 1
    assert torch.allclose(pixels.double(), expected, atol=1e-6)
    assert pixels.min() == -1 and pixels.max() == 1


def test_crop_and_mirror_take_the_named_window(tmp_path: Path) -> None:
    picture = noise(90, 64)
    write(tmp_path, "a.png", picture)
    (sample,) = samples(tmp_path, buckets=False)
    assert sample.crop == (13, 0)
    whole = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) / 127.5 - 1
    for left in (0, 5, 26):
        moved = replace(sample, crop=(left, 0))
        assert torch.allclose(load_pixels(moved)[0], whole[:, :, left : left + 64], atol=1e-6)
        mirrored = replace(moved, flip=True)
        assert torch.allclose(load_pixels(mirrored)[0], whole[:, :, left : left + 64].flip(2), atol=1e-6)
        # The conditioning names the window of the mirrored image.
        top, mirrored_left = mirrored.crop_top_left
        assert torch.equal(load_pixels(mirrored)[0], whole.flip(2)[:, :, mirrored_left : mirrored_left + 64])
        assert top == 0


def test_resizing_keeps_mean_and_place(tmp_path: Path) -> None:
    write(tmp_path, "a.png", quarters(640, 640))
    pixels, _ = load_pixels(samples(tmp_path)[0])
    assert pixels.shape == (3, 64, 64)
    means = (pixels.unflatten(1, (2, 32)).unflatten(3, (2, 32)).mean(dim=(2, 4)) + 1) * 127.5
    assert torch.allclose(means[:, 0, 0], torch.tensor([220.0, 30.0, 30.0]), atol=3)
    assert torch.allclose(means[:, 1, 0], torch.tensor([40.0, 50.0, 210.0]), atol=3)


def alpha_picture(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    picture = noise(*size)
    alpha = Image.new("L", size, 0)
    alpha.paste(255, box)
    picture.putalpha(alpha)
    return picture


def test_alpha_masks_are_averaged_over_each_latent(tmp_path: Path) -> None:
    write(tmp_path, "a.png", alpha_picture((64, 64), (0, 0, 20, 64)))
    pixels, mask = load_pixels(samples(tmp_path, mask="alpha")[0])
    assert mask is not None and mask.shape == (1, 8, 8)
    assert torch.allclose(mask[0], torch.tensor([1, 1, 0.5, 0, 0, 0, 0, 0]).expand(8, 8), atol=1e-6)
    assert load_pixels(samples(tmp_path, mask="alpha")[0], latent_scale=4)[1].shape == (1, 16, 16)  # type: ignore[union-attr]
    assert (pixels[:, :, 20:] < 0.9).any()


def test_masks_follow_resize_crop_and_mirror(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(192, 128))
    mask = Image.new("L", (192, 128), 0)
    mask.paste(255, (32, 0, 64, 128))
    write(tmp_path, "a.mask.png", mask)
    (sample,) = samples(tmp_path, mask="file", buckets=False)
    assert (sample.item.placement.resized, sample.crop) == ((96, 64), (16, 0))
    _, plain = load_pixels(sample)
    _, mirrored = load_pixels(replace(sample, flip=True))
    assert plain is not None and mirrored is not None
    assert torch.allclose(plain[0, 0], torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]), atol=1e-6)
    assert torch.equal(mirrored, plain.flip(2))


def test_a_mask_of_another_size_is_stretched_over_the_picture(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(64, 64))
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    write(tmp_path, "masks/a.png", mask)
    _, weights = load_pixels(samples(tmp_path, mask="file")[0])
    assert weights is not None and torch.allclose(weights[0, 0], torch.tensor([1.0] * 4 + [0.0] * 4), atol=1e-6)


def test_colour_augmentation_is_slight_seeded_and_keeps_greys_grey() -> None:
    pixels = torch.rand(3, 16, 16) * 1.4 - 0.7
    assert torch.equal(augment_colors(pixels, 3), augment_colors(pixels, 3))
    changes = [(augment_colors(pixels, seed) - pixels).abs().mean().item() for seed in range(200)]
    assert len(set(changes)) == 200
    assert 0.01 < sum(changes) / 200 < 0.1 and max(changes) < 0.2
    grey = augment_colors(torch.full((3, 4, 4), 0.2), 5)
    assert torch.allclose(grey[0], grey[1], atol=1e-6) and torch.allclose(grey[1], grey[2], atol=1e-6)
    assert augment_colors(torch.ones(3, 4, 4), 5).max() <= 1


def test_colour_augmentation_reaches_the_pixels(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (sample,) = samples(tmp_path)
    assert torch.equal(load_pixels(replace(sample, color_seed=4))[0], augment_colors(load_pixels(sample)[0], 4))


@pytest.mark.parametrize("threads", [1, 3])
def test_prefetch_keeps_the_order_and_gives_what_load_pixels_gives(tmp_path: Path, threads: int) -> None:
    for index in range(9):
        write(tmp_path, f"{index}.png", noise(*((64, 64), (96, 48))[index % 2], seed=index))
    dataset = scan(DatasetConfig(folder=str(tmp_path), resolution=64, bucket_step=16, cache_latents="off"))
    batches = dataset.plan(0, 2, 0)
    loaded = list(prefetch(batches, threads=threads, ahead=2))
    assert [batch for batch, _, _ in loaded] == batches
    for batch, pixels, masks in loaded:
        assert masks is None
        assert torch.equal(pixels, torch.stack([load_pixels(sample)[0] for sample in batch.items]))


def test_prefetch_passes_on_the_error_of_a_broken_picture(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    write(tmp_path, "b.png")
    dataset = scan(DatasetConfig(folder=str(tmp_path), resolution=64, bucket_step=16, cache_latents="off"))
    (tmp_path / "b.png").write_bytes(b"gone")
    with pytest.raises(PictureError, match=r"b\.png: not an image"):
        list(prefetch(dataset.plan(0, 1, 0)))


def test_stacked_masks_are_ones_where_a_picture_has_none() -> None:
    mask = torch.zeros(1, 2, 2)
    assert stack_masks([None, None]) is None
    stacked = stack_masks([None, mask])
    assert stacked is not None and stacked[0].eq(1).all() and stacked[1].eq(0).all()
