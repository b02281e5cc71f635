"""Send to X/Y/Z plot is beside the run in Running too, where there is such a plot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder
from tests.support.browser import Page, Server

# What the tab finds of a web UI: txt2img's prompt, and the button that reads an image's settings from it.
TXT2IMG = """
const prompt = Object.assign(document.createElement('div'), {id: 'txt2img_prompt'});
prompt.append(document.createElement('textarea'));
document.body.append(prompt, Object.assign(document.createElement('button'), {id: 'paste'}));
"""


@pytest.fixture
def saved_run(server: Server) -> Iterator[str]:
    """A run that has saved an adapter."""
    folder = RunFolder(server.runs / "saved")
    folder.path.mkdir(parents=True)
    adapter = folder.path / "saved-000100.safetensors"
    adapter.write_bytes(b"x")
    config_file.write(TrainConfig(), folder.config)
    with EventLog(folder.events) as log:
        log.write("started", run="saved", folder=folder.path, name="saved", algo="lora")
        log.write("saved", step=100, path=adapter, bytes=1, final=False, removed=[])
        log.write("finished", step=100, reason="all 100 steps done", adapters=[])
    yield "saved"
    shutil.rmtree(folder.path)


def test_a_run_is_sent_to_the_plot_from_running(page: Page, saved_run: str) -> None:
    page.tab("running")
    page.wait_text(".al-run-choice", saved_run)
    assert not page.one("#al-plot").is_displayed()
    page.driver.execute_script(TXT2IMG)
    page.tab("train")
    page.tab("running")
    page.wait(lambda: page.one("#al-plot").is_displayed(), "the button")
    page.click("#al-plot")
    # It asks for what to send, which without a web UI around the page is nothing.
    page.wait_text(".al-messages", "There is no X/Y/Z plot here")
