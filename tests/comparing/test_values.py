"""What may be written on an axis, and tags in prompts."""

from __future__ import annotations

import pytest

from adapter_lab.comparing.tags import Tag, rewrite, tags
from adapter_lab.comparing.values import step_values, strength_values
from adapter_lab.errors import AdapterLabError


@pytest.mark.parametrize(
    ("written", "values"),
    [
        (["400", " 0800 "], ["400", "800"]),
        (["0-8000 [9]"], [str(1000 * i) for i in range(9)]),
        (["400-1600 (+400)"], ["400", "800", "1200", "1600"]),
        (["8000-0 [3]"], ["8000", "4000", "0"]),
        (["500-700 [1]"], ["500"]),
        (["LAST", "best", "none", "last"], ["last", "best", "none"]),
        (["25%", "12.5%"], ["25%", "12.5%"]),
    ],
)
def test_steps_are_read(written: list[str], values: list[str]) -> None:
    assert step_values(written, []) == values


@pytest.mark.parametrize("written", ["", "many", "-400", "4e3", "0-8000 [99999]", "0-100 (+0)", "all", "1 - x"])
def test_what_is_no_step_is_refused(written: str) -> None:
    with pytest.raises(AdapterLabError):
        step_values([written], [])


def test_strengths_are_read() -> None:
    assert strength_values(["0-1 [5]", "-0.5", "2", "1"]) == [0.0, 0.25, 0.5, 0.75, 1.0, -0.5, 2.0]
    with pytest.raises(AdapterLabError, match="'nan-ish' is no strength"):
        strength_values(["nan-ish"])


DIGITS = ("9" * 310, "9" * 5000)  # beyond what a float holds, and what Python makes a whole number of


@pytest.mark.parametrize("digits", DIGITS, ids=["310", "5000"])
@pytest.mark.parametrize("pattern", ["{}", "{}%", "0-{} [3]", "0-1 [{}]", "0-{} (+1)", "0-1 (+{})", "0-{}", "0.{}-1"])
def test_a_number_of_hundreds_of_digits_is_refused_in_a_sentence(pattern: str, digits: str) -> None:
    for read in (lambda text: step_values([text], []), lambda text: strength_values([text])):
        with pytest.raises(AdapterLabError, match=r" is no (step|strength); write ") as caught:
            read(pattern.format(digits))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("written", ["nan", "inf", "-inf", "1e999"])
def test_a_strength_is_finite(written: str) -> None:
    with pytest.raises(AdapterLabError, match=f"'{written}' is no strength"):
        strength_values([written])


def test_tags_keep_what_belongs_to_them() -> None:
    prompt = "a <lora:one:0.5:0.7> b <LYCO:two:te=0.3:unet=1:dyn=8>"
    assert tags(prompt) == [Tag("one", ("0.5", "0.7")), Tag("two", ("te=0.3", "unet=1", "dyn=8"), "LYCO")]
    assert rewrite(prompt, lambda tag: tag) == prompt
    assert rewrite(prompt, lambda tag: None) == "a b"
    assert [str(tag.at(0.25)) for tag in tags(prompt)] == ["<lora:one:0.25>", "<LYCO:two:0.25:dyn=8>"]
    assert str(Tag("x", ("1", "1", "4")).at(0.5)) == "<lora:x:0.5:0.5:4>"
    assert rewrite("a  b <hypernet:x:1>", lambda tag: None) == "a  b <hypernet:x:1>"
