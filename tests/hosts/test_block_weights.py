"""sd-webui-lora-block-weight between us and the weights: its strengths by block and by step are our files' too.

Collected only where it is among the web UI's extensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG
from tests.support.host_measure import Bench
from tests.support.host_strengths import BLOCK_WEIGHTS, FILES, PLAIN, Measured, Strengths, weights
from tests.support.webui import Picture, WebUI, difference

ONES, ZEROS = "lbw=" + ",".join("1" * 17), "lbw=" + ",".join("0" * 17)
# What a tag says, the strengths of the text encoder and of two blocks, and what the infotext says.
ASKED: dict[str, tuple[str, dict[str, list[float]], str]] = {
    "all blocks": (f"1:{ONES}", {"te": [1], "IN01": [1], "IN04": [1]}, "18 of 18 modules"),
    "no block": (f"1:{ZEROS}", {"te": [0], "IN01": [0], "IN04": [0]}, "0 of 18 modules, strength 0"),
    "by block": (
        f"0.8:{weights(0.5, IN01=0.25, IN04=1)}",
        {"te": [0.4], "IN01": [0.2], "IN04": [0.8]},
        "18 of 18 modules, strength 0.2 to 0.8",
    ),
}
BY_STEP = {"stop": f"0.5:{ONES}:stop=2", "start": f"0.5:{ONES}:start=2"}


@pytest.fixture(scope="module")
def strengths(bench: Bench) -> Strengths:
    return Strengths(bench)


@pytest.fixture(scope="module")
def by_itself(strengths: Strengths, web_ui: WebUI) -> Iterator[dict[str, Measured]]:
    """The strengths in each step of a plain LoRA that the web UI loads itself."""
    with web_ui.options(adapter_lab_scope=ONLY_WRONG):
        yield {asked: made(strengths, PLAIN, tag)[1] for asked, tag in BY_STEP.items()}


@pytest.fixture(scope="module")
def all_files(web_ui: WebUI) -> Iterator[None]:
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        yield


def made(strengths: Strengths, case: str, tag: str) -> tuple[Picture, Measured]:
    """A picture with a case's file, and the strengths that its weights had."""
    picture = strengths.picture(BLOCK_WEIGHTS, f"<lora:{strengths.name(case)}:{tag}>")
    return picture, strengths.measured(case)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("case", FILES)
def test_strengths_by_block(case: str, asked: str, strengths: Strengths, all_files: None, record_property: Any) -> None:
    tag, wanted, said = ASKED[asked]
    picture, found = made(strengths, case, tag)
    record_property("measured", f"{found}; {picture.adapter_lab}")
    assert found.are(wanted), found
    assert picture.adapter_lab.endswith(said) and not picture.comments


@pytest.mark.parametrize("case", FILES)
def test_all_blocks_are_the_picture_of_the_tag_alone_and_no_block_that_without_it(
    case: str, strengths: Strengths, all_files: None
) -> None:
    tag = f"<lora:{strengths.name(case)}:1"
    alone, without = strengths.picture("", f"{tag}>"), strengths.picture("")
    assert difference(alone, without) > 2
    assert difference(strengths.picture(BLOCK_WEIGHTS, f"{tag}:{ONES}>"), alone) == 0
    assert difference(strengths.picture(BLOCK_WEIGHTS, f"{tag}:{ZEROS}>"), without) == 0


@pytest.mark.parametrize("asked", BY_STEP)
@pytest.mark.parametrize("case", FILES)
def test_strengths_by_step_are_those_of_a_file_that_the_web_ui_loads(
    case: str,
    asked: str,
    strengths: Strengths,
    by_itself: dict[str, Measured],
    all_files: None,
    record_property: Any,
) -> None:
    picture, found = made(strengths, case, BY_STEP[asked])
    record_property("measured", f"{found}; alone {by_itself[asked]}; {picture.adapter_lab}")
    assert found.are({part: by_itself[asked].by_step(part) for part in found.strengths}), found
    assert "0.5 from step" in picture.adapter_lab or "0 from step" in picture.adapter_lab
