"""What the drawings show."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from adapter_lab.demo.drawing import SIZE, draw_scene, draw_shapes
from adapter_lab.demo.world import ATTRIBUTES, BACKGROUNDS, VALUES, Figure, Scene, sample_scene

PLAIN = Figure("brown", "shorthair", "blue", "shirt", "red", "none", "none", "standing", "smile")


def picture(scene: Scene, seed: int = 1) -> np.ndarray:
    return np.asarray(draw_scene(scene, random.Random(seed))).astype(int)


def different_pixels(first: np.ndarray, second: np.ndarray) -> int:
    """Pixels that differ clearly, more than the colours' own jitter."""
    return int((np.abs(first - second).max(axis=-1) > 40).sum())


def test_equal_seeds_draw_equal_pictures() -> None:
    scene = sample_scene(random.Random(3), 2)
    assert (picture(scene, 5) == picture(scene, 5)).all()
    assert different_pixels(picture(scene, 5), picture(scene, 6)) > 0


@pytest.mark.parametrize("figures", [1, 2])
def test_pictures_are_square_rgb(figures: int) -> None:
    image = draw_scene(sample_scene(random.Random(1), figures), random.Random(1))
    assert image.mode == "RGB"
    assert image.size == (SIZE, SIZE)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_any_two_values_of_an_attribute_look_different(attribute: str) -> None:
    """At least 30 pixels, half a latent cell, even for the smallest feature (a mouth)."""
    drawn = {v: picture(Scene((replace(PLAIN, **{attribute: v}),), "white")) for v in VALUES[attribute]}
    values = list(drawn)
    for index, first in enumerate(values):
        for second in values[index + 1 :]:
            assert different_pixels(drawn[first], drawn[second]) >= 30, (first, second)


@pytest.mark.parametrize("emblem", ["star", "moon", "heart"])
def test_emblems_are_large_enough_for_the_vae(emblem: str) -> None:
    """Under 14 pixels they turned into blobs."""
    with_emblem = picture(Scene((replace(PLAIN, clothes_colour="black", emblem=emblem),), "white"))
    without = picture(Scene((replace(PLAIN, clothes_colour="black"),), "white"))
    rows, columns = np.nonzero(np.abs(with_emblem - without).max(axis=-1) > 40)
    assert np.ptp(rows) + 1 >= 14
    assert np.ptp(columns) + 1 >= 14


def test_backgrounds_differ_behind_the_figure() -> None:
    corners = [picture(Scene((PLAIN,), name))[:, :16] for name in BACKGROUNDS]
    for index, first in enumerate(corners):
        for second in corners[index + 1 :]:
            assert different_pixels(first, second) > 400


def test_two_figures_stand_left_and_right() -> None:
    scene = Scene((replace(PLAIN, clothes_colour="red"), replace(PLAIN, clothes_colour="blue")), "white")
    drawn = picture(scene)
    reddish = (drawn[..., 0] - drawn[..., 2] > 100).nonzero()[1]
    bluish = (drawn[..., 2] - drawn[..., 0] > 100).nonzero()[1]
    assert np.median(reddish) < SIZE / 2 < np.median(bluish)


def test_random_shapes_cover_many_colours() -> None:
    rng = random.Random(1)
    means = np.stack([np.asarray(draw_shapes(rng)).mean(axis=(0, 1)) for _ in range(40)])
    assert (means.std(axis=0) > 25).all()
