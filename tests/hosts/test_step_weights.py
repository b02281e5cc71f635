"""sd-webui-loractl left on in A1111: it passes strength 1 for every tag, and tells the real one at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.host_measure import Bench
from tests.support.host_strengths import FILES, PLAIN, STEP_WEIGHTS, STEPS, Measured, Strengths
from tests.support.webui import Picture


@pytest.fixture(scope="module")
def strengths(bench: Bench) -> Strengths:
    return Strengths(bench)


def made(strengths: Strengths, case: str, tag: str) -> tuple[Picture, Measured]:
    """A picture with a case's file, and the strengths that its weights had."""
    picture = strengths.picture(STEP_WEIGHTS, f"<lora:{strengths.name(case)}:{tag}>")
    return picture, strengths.measured(case)


@pytest.mark.parametrize("case", FILES)
def test_a_tags_strength_is_its_files(case: str, strengths: Strengths, record_property: Any) -> None:
    picture, found = made(strengths, case, "0.6")
    record_property("measured", f"{found}; {picture.adapter_lab}")
    assert found.are({"te": [0.6], "IN01": [0.6], "IN04": [0.6]}), found
    assert picture.adapter_lab.endswith("18 of 18 modules, strength 0.6") and not picture.comments


@pytest.mark.parametrize("case", FILES)
def test_strengths_by_step_are_those_of_a_file_that_the_web_ui_loads(
    case: str, strengths: Strengths, record_property: Any
) -> None:
    _, alone = made(strengths, PLAIN, "1@0,0.2@0.5")
    picture, found = made(strengths, case, "1@0,0.2@0.5")
    record_property("measured", f"{found}; alone {alone}; {picture.adapter_lab}")
    assert found.are({part: alone.by_step(part) for part in found.strengths}), found
    unet: Sequence[float] = found.by_step("IN01")
    assert unet[0] == pytest.approx(1.0, abs=1e-3) and unet[-1] == pytest.approx(0.2, abs=1e-3) and len(unet) == STEPS
    assert "strength 1, " in picture.adapter_lab and "0.2 from step" in picture.adapter_lab
