"""sd-webui-lora-block-weight between us and the weights: its strengths by block and by step are our files' too.

Collected only where it is among the web UI's extensions.
"""

from __future__ import annotations

from typing import Any

import pytest

from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG
from tests.support.host_measure import Bench
from tests.support.host_strengths import BLOCK_WEIGHTS, FILES, PLAIN, Strengths, weights
from tests.support.webui import WebUI, difference

ONES, ZEROS = "lbw=" + ",".join("1" * 17), "lbw=" + ",".join("0" * 17)
# What a tag says, the strengths of the text encoder and of two blocks, and what the infotext says of each file.
ASKED: dict[str, tuple[str, dict[str, list[float]], str]] = {
    "by block": (
        f"0.8:{weights(0.5, 0.25, 1)}",
        {"te": [0.4], "first": [0.2], "second": [0.8]},
        "18 of 18 modules, strength 0.2 to 0.8",
    ),
    "all blocks": (f"1:{ONES}", {"te": [1], "first": [1], "second": [1]}, "18 of 18 modules"),
    "no block": (f"1:{ZEROS}", {"te": [0], "first": [0], "second": [0]}, "0 of 18 modules, strength 0"),
}
BY_STEP = {"stop": f"0.5:{ONES}:stop=2", "start": f"0.5:{ONES}:start=2"}


@pytest.fixture(scope="module")
def strengths(bench: Bench) -> Strengths:
    return Strengths(bench)


@pytest.mark.parametrize("asked", ASKED)
def test_strengths_by_block(asked: str, strengths: Strengths, web_ui: WebUI, record_property: Any) -> None:
    tag, wanted, said = ASKED[asked]
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        picture = strengths.picture(BLOCK_WEIGHTS, tag, *FILES)
    lines = picture.adapter_lab.split("; ")
    for case, line in zip(FILES, lines):
        found = strengths.measured(case)
        record_property("measured", f"{found}; {line}")
        assert found.are(wanted), found
        assert line.endswith(said)
    assert len(lines) == len(FILES) and not picture.comments


@pytest.mark.parametrize("asked", BY_STEP)
def test_strengths_by_step_are_those_of_a_file_that_the_web_ui_loads(
    asked: str, strengths: Strengths, web_ui: WebUI, record_property: Any
) -> None:
    with web_ui.options(adapter_lab_scope=ONLY_WRONG):
        strengths.picture(BLOCK_WEIGHTS, BY_STEP[asked], PLAIN)
    alone = strengths.measured(PLAIN)
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        picture = strengths.picture(BLOCK_WEIGHTS, BY_STEP[asked], *FILES)
    for case in FILES:
        found = strengths.measured(case)
        record_property("measured", f"{found}; alone {alone}; {picture.adapter_lab}")
        assert found.are({part: alone.by_step(part) for part in found.strengths}), found
    assert picture.adapter_lab.count("0.5 from step" if asked == "start" else "0 from step") == len(FILES)


def test_all_blocks_are_the_picture_of_the_tags_alone_and_no_block_that_without_them(strengths: Strengths) -> None:
    # Switched off it still changes strengths at the step that it was last asked for; a tag without one ends that.
    strengths.picture(BLOCK_WEIGHTS, "1", *FILES)
    alone, without = strengths.picture("", "1", *FILES), strengths.picture("", "1")
    assert difference(alone, without) > 2
    assert difference(strengths.picture(BLOCK_WEIGHTS, f"1:{ONES}", *FILES), alone) == 0
    assert difference(strengths.picture(BLOCK_WEIGHTS, f"1:{ZEROS}", *FILES), without) == 0
