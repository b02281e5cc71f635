"""Concepts in captions, and prompts about them."""

from __future__ import annotations

import pytest

from adapter_lab.study.scores.concepts import find_concepts, named_in

MANY = ["anna, day", "anna, night", "1girl, anna, day", "bea, day", "solo, bea", "bea, anna"]


@pytest.mark.parametrize(
    ("captions", "concepts"),
    [
        (MANY, ("anna", "bea")),
        (["anna, day"] * 9 + ["odd one"], ("anna", "odd one")),
        (["anna, day"] * 19 + ["odd one"], ("anna",)),
        ([f"thing {number}, day" for number in range(20)], ("",)),  # every caption begins otherwise
        (["", "", ""], ("",)),
        (["1girl", "2girls, solo"], ("",)),
    ],
)
def test_trigger_words_are_the_few_first_tags(captions: list[str], concepts: tuple[str, ...]) -> None:
    assert find_concepts(captions) == concepts


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("solo, anna, day", ("anna",)),
        ("bea and ANNA", ("anna", "bea")),
        ("annabel", ()),
        ("nobody", ()),
    ],
)
def test_a_concept_is_named_by_its_whole_word(text: str, named: tuple[str, ...]) -> None:
    assert named_in(text, ("anna", "bea")) == named
    assert named_in(text, ("",)) == ("",)
