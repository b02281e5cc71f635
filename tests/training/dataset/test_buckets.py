from __future__ import annotations

import math
import random

import pytest

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import ConfigError
from adapter_lab.training.dataset.buckets import Buckets, place


def random_sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    chance = random.Random(seed)
    return [(int(2 ** chance.uniform(4, 13)), int(2 ** chance.uniform(4, 13))) for _ in range(count)]


SETTINGS = [
    (1024, {}),
    (1024, {"upscale": True}),
    (1000, {"bucket_step": 32}),
    (512, {"bucket_min": 100, "bucket_max": 700}),
    (512, {"bucket_max": 512}),
    (768, {"buckets": False}),
    (128, {"bucket_step": 16}),
]


@pytest.mark.parametrize(("resolution", "options"), SETTINGS)
def test_every_bucket_keeps_to_step_limits_and_area(resolution: int, options: dict) -> None:
    config = DatasetConfig(**options)
    buckets = Buckets.from_config(config, resolution)
    longest = config.bucket_max or 2 * resolution
    shortest = config.bucket_min or resolution // 4
    placed = 0
    for size in random_sizes(3000):
        placement = buckets.choose(size)
        if placement is None:
            assert min(size) < 16 or (not config.upscale and min(size) < buckets.shortest)
            continue
        placed += 1
        width, height = placement.bucket
        assert width % config.bucket_step == 0 and height % config.bucket_step == 0
        assert shortest <= min(width, height) and max(width, height) <= longest
        assert width * height <= resolution**2
        assert config.buckets or width == height
        assert placement.resized[0] >= width and placement.resized[1] >= height
        # The aspect ratio is kept: one side fits the bucket, the other is at most rounded.
        assert placement.slack[0] == 0 or placement.slack[1] == 0
        assert abs(placement.resized[0] - size[0] * placement.scale) <= 1
        if not config.upscale:
            assert width <= size[0] and height <= size[1] and placement.scale <= 1
    assert placed > 500


def test_large_pictures_use_the_area_and_lose_little_to_cropping() -> None:
    buckets = Buckets.from_config(DatasetConfig(), 1024)
    chance = random.Random(1)
    kept = []
    for _ in range(2000):
        aspect = math.exp(chance.uniform(math.log(1 / 3), math.log(3)))
        height = 4000 / math.sqrt(aspect)
        placement = buckets.choose((round(height * aspect), round(height)))
        assert placement is not None
        width, height = placement.bucket
        assert width * height >= 0.9 * 1024**2
        kept.append(placement.kept)
    assert min(kept) > 0.9
    assert sum(kept) / len(kept) > 0.96


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((4000, 4000), (1024, 1024)),
        ((3000, 2000), (1216, 832)),  # the sizes SDXL was trained on
        ((2000, 3000), (832, 1216)),
        ((1920, 1080), (1344, 768)),
        ((700, 700), (640, 640)),  # not enlarged
        ((1300, 500), (1280, 448)),
        ((300, 1000), (256, 960)),
        ((6000, 600), (2048, 256)),  # keeps the shortest side, loses some of its length
        ((200, 900), None),
        ((1, 1), None),
        ((5000, 1), None),
    ],
)
def test_bucket_of_a_picture_at_1024(size: tuple[int, int], bucket: tuple[int, int] | None) -> None:
    placement = Buckets.from_config(DatasetConfig(), 1024).choose(size)
    assert (placement.bucket if placement else None) == bucket


def test_upscale_enlarges_to_the_full_area() -> None:
    placement = Buckets.from_config(DatasetConfig(upscale=True), 1024).choose((300, 200))
    assert placement is not None
    assert placement.bucket == (1216, 832)
    assert placement.scale == pytest.approx(832 / 200)


def test_place_centres_the_crop() -> None:
    placement = place((1000, 500), (256, 256))
    assert placement.resized == (512, 256)
    assert placement.slack == (256, 0)
    assert placement.centre == (128, 0)
    assert placement.kept == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "resolution", "words"),
    [
        ({"bucket_step": 60}, 512, "multiple of 8"),
        ({"bucket_step": 64}, 32, "bucket_step 64"),
        ({"bucket_min": 600}, 512, "bucket_min"),
        ({"bucket_min": 500, "bucket_max": 400}, 1024, "bucket_max"),
    ],
)
def test_settings_that_leave_no_bucket_are_refused(options: dict, resolution: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Buckets.from_config(DatasetConfig(**options), resolution)
