"""Generate asks while a training runs: the script that web UIs load, on a page with their buttons."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse

from adapter_lab.api import Context, attach
from adapter_lab.environment.status import ROOT
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker import Worker
from tests.support.browser import wait_for

# As web UIs make them: a listener on the button itself, and a shortcut that presses it.
PAGE = """<!doctype html><body>
<button id="txt2img_generate">Generate</button>
<button id="img2img_generate"><span>Generate</span></button>
<button id="other">Other</button>
<script>
window.made = [];
for (const button of document.querySelectorAll("button")) button.addEventListener("click", () => made.push(button.id));
</script>
<script src="/adapter_lab_generate.js"></script>
"""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A web UI where Generate asks."""
    root = tmp_path / "runs"
    root.mkdir()
    worker = Worker(root)
    yield Context(worker, tmp_path, while_training=lambda: "ask")
    worker.close()


@pytest.fixture
def training(context: Context) -> Iterator[None]:
    """A training that is at a quarter."""
    folder = RunFolder(context.worker.root / "cat")
    folder.path.mkdir()
    folder.config.touch()
    with folder.claimed(), EventLog(folder.events) as log:
        log.write("started", name="cat", algo="lora", adapters="x")
        log.write("step", step=1, loss=0.5, progress=0.25)
        yield


@pytest.fixture
def page(context: Context, driver: Any) -> Iterator[Any]:
    """The page, opened."""
    app = FastAPI()
    app.get("/", response_class=HTMLResponse)(lambda: PAGE)
    script = ROOT / "javascript" / "adapter_lab_generate.js"
    app.get("/adapter_lab_generate.js")(lambda: FileResponse(script, media_type="text/javascript"))
    assert attach(app, context)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the server")
    driver.get(f"http://127.0.0.1:{port}/")
    yield driver
    server.should_exit = server.force_exit = True
    thread.join(timeout=10)


def press(page: Any, button: str) -> None:
    page.find_element("css selector", f"#{button} span, #{button}:not(:has(span))").click()


def made(page: Any) -> list[str]:
    return list(page.execute_script("return window.made"))


def question(page: Any) -> Any:
    from selenium.common.exceptions import NoAlertPresentException

    def asked() -> Any:
        try:
            return page.switch_to.alert
        except NoAlertPresentException:
            return None

    return wait_for(asked, "the question", seconds=20)


@pytest.mark.parametrize("button", ["txt2img_generate", "img2img_generate"])
def test_without_a_training_generate_goes_on_by_itself(page: Any, button: str) -> None:
    press(page, button)
    wait_for(lambda: made(page) == [button], "the image", seconds=20)


@pytest.mark.parametrize("button", ["txt2img_generate", "img2img_generate"])
def test_beside_a_training_generate_asks_once_per_training(page: Any, training: None, button: str) -> None:
    press(page, button)
    asked = question(page)
    assert "A training is running" in asked.text and "cat: 25%" in asked.text
    asked.dismiss()
    time.sleep(0.3)
    assert made(page) == []
    page.execute_script(f"document.querySelector('#{button}').click()")  # as the shortcut does
    question(page).accept()
    wait_for(lambda: made(page) == [button], "the image", seconds=20)
    press(page, button)
    wait_for(lambda: made(page) == [button] * 2, "another image, without being asked again", seconds=20)


def test_a_refusal_ends_generate_forever(page: Any, training: None) -> None:
    page.execute_script("""
        const press = () => document.querySelector('#txt2img_generate').click();
        window.generateOnRepeatInterval = setInterval(press, 200);
    """)
    question(page).dismiss()
    time.sleep(1)
    page.find_element("css selector", "#other").click()  # an open question would raise here
    assert made(page) == ["other"]


def test_a_setting_that_does_not_ask_and_a_server_that_does_not_answer_stop_nobody(
    page: Any, training: None, context: Context
) -> None:
    context.while_training = lambda: "go on"
    press(page, "txt2img_generate")
    wait_for(lambda: len(made(page)) == 1, "the image", seconds=20)
    page.execute_script("window.fetch = () => Promise.reject(new TypeError('offline'))")
    press(page, "txt2img_generate")
    wait_for(lambda: len(made(page)) == 2, "the image", seconds=20)
