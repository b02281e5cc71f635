"""What the scorer's reading is turned into, and how well the shipped scorer reads."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapter_lab.demo.drawing import draw_scene
from adapter_lab.demo.scorer import PairScore, ScorerNet, likeness, read_pictures, score_pair, tag_accuracy
from adapter_lab.demo.toy_file import TOY_FILE, open_scorer
from adapter_lab.demo.train_scorer import drawings, error_rates
from adapter_lab.demo.train_vae import to_tensor
from adapter_lab.demo.world import CHARACTERS, IDENTITY, Scene, sample_figure, sample_scene

RNG = random.Random(1)
FIRST, SECOND = (character.figure(RNG) for character in CHARACTERS)


def swapped(names: tuple[str, ...]) -> Scene:
    """Both characters with these attributes exchanged."""
    return Scene(
        (
            replace(FIRST, **{name: getattr(SECOND, name) for name in names}),
            replace(SECOND, **{name: getattr(FIRST, name) for name in names}),
        ),
        "night",
    )


@pytest.fixture(scope="module")
def net() -> ScorerNet:
    return open_scorer()


@pytest.mark.parametrize("wrong", range(8))
def test_likeness_is_the_share_of_attributes_that_are_right(wrong: int) -> None:
    figure = replace(FIRST, **{name: getattr(SECOND, name) for name in IDENTITY[:wrong]})
    assert likeness(figure, CHARACTERS[0]) == pytest.approx(1 - wrong / 7)


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (Scene((FIRST, SECOND), "night"), PairScore(1.0, 0.0, True)),
        (Scene((SECOND, FIRST), "night"), PairScore(1.0, 0.0, True)),
        (swapped(("hair_colour",)), PairScore(6 / 7, 1 / 7, False)),
        (swapped(("eyes", "emblem", "clothes")), PairScore(4 / 7, 3 / 7, False)),
        (Scene((FIRST, FIRST), "night"), PairScore(1 / 2, 1 / 2, False)),
        (Scene((FIRST,), "night"), PairScore(1 / 2, 0.0, False)),
    ],
)
def test_pairs_are_matched_the_better_way_round_and_swaps_counted(scene: Scene, expected: PairScore) -> None:
    score = score_pair(scene)
    assert score.likeness == pytest.approx(expected.likeness)
    assert score.bleeding == pytest.approx(expected.bleeding)
    assert score.complete == expected.complete


def test_a_feature_of_neither_character_is_no_bleeding() -> None:
    scene = Scene((replace(FIRST, hair_colour="brown"), SECOND), "night")
    assert score_pair(scene) == PairScore(pytest.approx(13 / 14), 0.0, False)


def test_tag_accuracy_counts_figures_background_and_every_attribute() -> None:
    wanted = Scene((FIRST, SECOND), "night")
    assert tag_accuracy(wanted, wanted) == 1.0
    assert tag_accuracy(wanted, Scene((FIRST, SECOND), "room")) == pytest.approx(19 / 20)
    assert tag_accuracy(wanted, Scene((FIRST,), "night")) == pytest.approx(10 / 20)
    assert tag_accuracy(Scene((FIRST,), "night"), Scene((replace(FIRST, pose="none"),), "night")) == pytest.approx(
        10 / 11
    )


def test_the_shipped_scorers_stated_error_is_small_and_holds_on_new_drawings(net: ScorerNet) -> None:
    stated = json.loads(TOY_FILE.with_name("scorer_error.json").read_text(encoding="utf-8"))
    assert stated["pictures"] >= 1000
    assert stated["drawn"]["attributes"] <= 0.005
    assert stated["through_vae"]["attributes"] <= 0.02
    scenes, pictures = drawings(160, seed=424242)
    measured = error_rates(net, scenes, pictures)
    assert measured["attributes"] <= stated["drawn"]["attributes"] + 0.005
    assert measured["background"] <= 0.02
    assert measured["figures"] <= 0.02


def test_the_shipped_scorer_tells_the_new_characters_from_the_bases_world(net: ScorerNet) -> None:
    rng = random.Random(9)
    characters = [Scene((character.figure(rng),), "meadow") for character in CHARACTERS for _ in range(16)]
    strangers = [sample_scene(rng, 1) for _ in range(32)]
    pictures = to_tensor(np.stack([np.asarray(draw_scene(scene, rng)) for scene in characters + strangers]))
    seen = read_pictures(net, pictures)
    own = [likeness(seen[index].figures[0], CHARACTERS[index // 16]) for index in range(32)]
    other = [max(likeness(scene.figures[0], character) for character in CHARACTERS) for scene in seen[32:]]
    assert sum(own) / 32 > 0.98
    assert sum(other) / 32 < 0.3


def test_the_shipped_scorer_sees_swapped_features_as_bleeding(net: ScorerNet) -> None:
    rng = random.Random(10)
    scenes = [swapped(("hair_colour", "accessory")) for _ in range(24)]
    pictures = to_tensor(np.stack([np.asarray(draw_scene(scene, rng)) for scene in scenes]))
    scores = [score_pair(scene) for scene in read_pictures(net, pictures)]
    assert sum(score.bleeding for score in scores) / 24 == pytest.approx(2 / 7, abs=0.02)
    assert sum(score.likeness for score in scores) / 24 == pytest.approx(5 / 7, abs=0.02)


def test_noise_is_read_as_nobody_in_particular(net: ScorerNet) -> None:
    """The scorer must not favour the new characters where there is nothing to see."""
    pictures = torch.randn(16, 3, 128, 128, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    for scene in read_pictures(net, pictures):
        assert max(likeness(figure, character) for figure in scene.figures for character in CHARACTERS) < 0.75


def test_reading_names_every_attribute_of_a_random_figure(net: ScorerNet) -> None:
    rng = random.Random(11)
    figure = sample_figure(rng)
    picture = to_tensor(np.asarray(draw_scene(Scene((figure,), "white"), rng))[None])
    assert read_pictures(net, picture)[0] == Scene((figure,), "white")
