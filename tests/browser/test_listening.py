"""`adapter-lab ui --listen`: others than this machine reach the page, so what it may name is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Page, Server, environments


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Server]:
    """The page with one gradio: what is bounded does not depend on it."""
    options = ("--listen", "--folder", str(pictures.parent))
    server = Server(list(environments().values())[-1], tmp_path_factory.mktemp("listening"), options)
    server.start()
    yield server
    server.end_runs()
    server.kill()


def test_a_page_that_others_reach_reports_estimates_and_trains(
    driver: Any, listening: Server, pictures: Path, tmp_path: Path
) -> None:
    page = Page(driver, listening)
    driver.get(listening.url)
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    page.open()
    page.type("dataset.folder", str(tmp_path))
    page.wait_text("#adapter_lab", "lies outside of the folders")
    assert "--folder" in page.text("#adapter_lab")
    page.type("dataset.folder", str(pictures))
    page.wait_text(".al-dataset", "10images")
    page.wait_text("#al-file-size", "B")
    page.type("run.steps", "3")
    page.type("run.batch_size", "8")
    page.click("#al-start")
    page.wait_text("#al-state", "finished")
    assert page.step() == 3
