"""sd-webui-loractl left on in A1111: it passes strength 1 for every tag, and tells the real one at every step.

Collected only where it is among the web UI's extensions.
"""

from __future__ import annotations

from typing import Any

import pytest

from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG
from tests.support.host_measure import Bench
from tests.support.host_strengths import FILES, PLAIN, STEP_WEIGHTS, Strengths
from tests.support.webui import WebUI

COURSE = "1@0,0.2@0.5"


@pytest.fixture(scope="module")
def strengths(bench: Bench) -> Strengths:
    return Strengths(bench)


def test_a_tags_strength_is_its_files(strengths: Strengths, web_ui: WebUI, record_property: Any) -> None:
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        picture = strengths.picture(STEP_WEIGHTS, "0.6", *FILES)
    for case, line in zip(FILES, picture.adapter_lab.split("; ")):
        found = strengths.measured(case)
        record_property("measured", f"{found}; {line}")
        assert found.are({"te": [0.6], "first": [0.6], "second": [0.6]}), found
        assert line.endswith("18 of 18 modules, strength 0.6")
    assert not picture.comments


def test_strengths_by_step_are_those_of_a_file_that_the_web_ui_loads(
    strengths: Strengths, web_ui: WebUI, record_property: Any
) -> None:
    with web_ui.options(adapter_lab_scope=ONLY_WRONG):
        strengths.picture(STEP_WEIGHTS, COURSE, PLAIN)
    alone = strengths.measured(PLAIN)
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        picture = strengths.picture(STEP_WEIGHTS, COURSE, *FILES)
    for case in FILES:
        found = strengths.measured(case)
        record_property("measured", f"{found}; alone {alone}; {picture.adapter_lab}")
        # The text encoder has run before the first step, at a strength of its own.
        assert found.are({part: alone.by_step(part) for part in ("first", "second")}), found
        unet = found.by_step("first")
        assert unet[0] == pytest.approx(1.0, abs=1e-3) and unet[-1] == pytest.approx(0.2, abs=1e-3)
    assert picture.adapter_lab.count("0.2 from step") == len(FILES)
