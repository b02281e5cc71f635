"""One browser, and `adapter-lab ui` with each gradio that is here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_lab.demo.dataset import write_demo_folder
from tests.support.browser import Page, Server, browser, environments


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="session", params=list(environments()), ids=lambda version: f"gradio-{version}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page, served with one gradio."""
    started = Server(environments()[request.param], tmp_path_factory.mktemp("ui"))
    started.start()
    yield started
    started.end_runs()
    started.kill()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder, with fewer images."""
    folder = tmp_path_factory.mktemp("pictures") / "two heroes"
    write_demo_folder(folder, 10)
    return folder


@pytest.fixture
def page(driver: Any, server: Server) -> Page:
    """The tab, opened by someone who has never seen it."""
    page = Page(driver, server)
    driver.get(server.url)
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    page.open()
    return page
