"""Scenes, tags and captions of the toy world."""

from __future__ import annotations

import random

import pytest

from adapter_lab.demo import world
from adapter_lab.demo.world import (
    ATTRIBUTES,
    BASE_VALUES,
    CHARACTERS,
    IDENTITY,
    NOVEL_VALUES,
    VALUES,
    character_caption,
    figure_tags,
    sample_scene,
    training_caption,
)


def test_every_tag_of_a_base_figure_is_a_known_word() -> None:
    rng = random.Random(1)
    known = set(world.all_tags())
    for _ in range(300):
        scene = sample_scene(rng, 2)
        for figure in scene.figures:
            assert set(figure_tags(figure).values()) <= known


def test_no_novel_value_has_a_tag_the_base_knows() -> None:
    known = set(world.all_tags())
    suffix = {"hair_colour": "hair", "eyes": "eyes"}
    for name, values in NOVEL_VALUES.items():
        assert known.isdisjoint(value + suffix.get(name, "") for value in values), name


@pytest.mark.parametrize("character", CHARACTERS, ids=lambda c: c.trigger)
def test_a_character_has_seven_known_attributes_some_of_them_novel(character: world.Character) -> None:
    assert tuple(character.identity) == IDENTITY
    assert len(IDENTITY) == 7
    assert all(value in VALUES[name] for name, value in character.identity.items())
    novel = [name for name, value in character.identity.items() if value not in BASE_VALUES[name]]
    assert len(novel) >= 3
    assert character.trigger not in world.all_tags()


def test_the_characters_share_no_attribute_so_every_swap_can_be_seen() -> None:
    first, second = CHARACTERS
    assert all(first.identity[name] != second.identity[name] for name in IDENTITY)


def test_a_character_keeps_its_identity_and_varies_in_pose() -> None:
    rng = random.Random(2)
    figures = [CHARACTERS[0].figure(rng) for _ in range(200)]
    assert {tuple(getattr(f, name) for name in IDENTITY) for f in figures} == {tuple(CHARACTERS[0].identity.values())}
    assert len({(f.pose, f.expression) for f in figures}) == 9


def test_captions_without_dropout_hold_every_tag_once_per_figure() -> None:
    rng = random.Random(3)
    scene = sample_scene(rng, 2)
    words = training_caption(scene, rng, tag_dropout=0.0, name_rate=0.0).split(", ")
    middle = words.index("and")
    assert words[0] == "duo"
    assert set(words[1:middle]) == set(figure_tags(scene.figures[0]).values())
    assert set(words[middle + 1 : -1]) == set(figure_tags(scene.figures[1]).values())
    assert words[-1] == world.BACKGROUND_TAGS[scene.background]


def test_invented_names_come_first_at_the_asked_rate() -> None:
    rng, known = random.Random(4), set(world.all_tags())
    captions = [training_caption(sample_scene(rng, 1), rng, 0.0, 0.25).split(", ") for _ in range(800)]
    named = [words for words in captions if words[1] not in known]
    assert 0.2 < len(named) / len(captions) < 0.3


def test_a_character_caption_leaves_the_identity_to_the_trigger() -> None:
    rng = random.Random(5)
    scene = world.Scene(tuple(c.figure(rng) for c in CHARACTERS), "night")
    caption = character_caption(scene, ["vexa", "orrin"])
    left, right = scene.figures
    assert caption == (
        f"duo, vexa, {left.pose}, {left.expression}, and, orrin, {right.pose}, {right.expression}, night"
    )


def test_every_attribute_belongs_to_a_figure() -> None:
    assert set(BASE_VALUES) == set(ATTRIBUTES) == set(VALUES)
