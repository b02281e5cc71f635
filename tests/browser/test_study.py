"""A study on the page: planned, started, watched over a reload, and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import WAIT_SECONDS, Page, Server, environments, wait_for

# The page is the same whatever serves it; five processes take long enough with one gradio.
pytestmark = pytest.mark.parametrize("server", list(environments())[-1:], indirect=True)
CHOSEN = ("LoRA", "LoKr f4")


@pytest.fixture
def no_study_left(server: Server) -> Any:
    """End what a test that fails would leave training."""
    yield
    for study in server.get("/studies"):
        if study["state"] in ("starting", "running", "stopping"):
            server.post(f"/studies/{study['id']}/stop", {"how": "now"})


def choose(page: Page, name: str, text: str) -> None:
    """Fill in a field of the study."""
    element = page.one(f"[data-study='{name}']")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select?.()", element)
    element.send_keys(text)


@pytest.mark.usefixtures("no_study_left")
def test_a_study_is_planned_started_watched_and_reported(page: Page, pictures: Path) -> None:
    page.type("dataset.folder", str(pictures))
    page.wait_text(".al-dataset", "10images")
    page.tab("study")
    page.wait(lambda: len(page.all(".al-variants tbody tr")) == 11, "the study's eleven")
    page.click(".al-variants thead input")
    assert page.text("#al-study-start") == "Start study"
    page.wait_text(".al-side .al-lines", "Tick at least one variant")
    for name in CHOSEN:
        page.click(f"tr[data-variant='{name}'] input[type='checkbox']")
    choose(page, "unit", "steps")
    choose(page, "amount", "9")
    choose(page, "points", "2")
    page.wait_text(".al-side .al-lines", "9 steps cannot be divided into 2 equal parts")
    choose(page, "amount", "12")
    page.wait(lambda: page.text("#al-study-trainings") == "2", "the plan")
    rows = [row.text for row in page.all("#al-study-plan tbody tr")]
    assert [row.split()[0] for row in rows] == ["LoRA", "LoKr"] and all("12 steps" in row for row in rows)
    page.click("#al-study-start")
    study = "[data-study-id='study']"
    page.wait(lambda: "training" in page.text(f"{study} tbody"), "a variant that trains")
    assert page.server.get("/status")["active"] == "study"
    assert "study" not in [run["id"] for run in page.server.get("/runs")]
    page.driver.refresh()
    page.drawn()
    # Five processes one after another, each of which loads torch.
    page.wait_text(f"{study} > .al-row .al-state", "finished", 3 * WAIT_SECONDS)
    assert "2 of 2 trainings" in page.text(study) and "4 files" in page.text(study)
    assert [row["state"] for row in page.server.get("/studies/study")["rows"]] == ["done", "done"]
    page.wait_text(f"{study} .al-headline", "only training losses were measured")
    assert not page.all(f"{study} .al-problem")
    before = page.driver.current_window_handle
    page.click(f"{study} [data-report='html']")
    wait_for(lambda: len(page.driver.window_handles) == 2, "the report")
    (other,) = set(page.driver.window_handles) - {before}
    page.driver.switch_to.window(other)
    try:
        page.wait_text("h1", "Study study")
        assert all(name in page.text("table") for name in CHOSEN) and page.all("svg.chart")
    finally:
        page.driver.close()
        page.driver.switch_to.window(before)
    # The next study does not want that name.
    page.wait(lambda: page.one("[data-study='name']").get_attribute("value") == "study-2", "another name")
