"""The X/Y/Z plot filled and run in the web UI's own page, with a real browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import targets
from adapter_lab.comparing.sending import run_plot
from tests.support.webui import WebUI
from tests.support.xyz_files import linear_targets, write_run

SECONDS = 300
FIELDS = """
const text = (id) => document.querySelector(`#script_txt2img_xyz_plot_${id} :is(textarea, input)`)?.value;
return {
    prompt: document.querySelector("#txt2img_prompt textarea")?.value,
    types: ["x_type", "y_type", "z_type"].map(text),
    values: ["x_values", "y_values", "z_values"].map(text),
    steps: document.querySelector("#txt2img_steps input[type=number]")?.value,
};
"""  # fmt: skip
PICTURES = "return [...document.querySelectorAll('#txt2img_gallery img')].map((image) => image.naturalWidth);"


@pytest.fixture
def page(web_ui: WebUI) -> Iterator[Any]:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail("this needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1400"):
        options.add_argument(argument)
    found = webdriver.Chrome(options, Service(driver))
    try:
        found.set_script_timeout(60)
        found.get(web_ui.url)
        yield found
    finally:
        found.quit()


def until(look: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `look` gives once it is true; fails with its last answer."""
    end, found = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            found = look()
        except Exception as error:  # the page is not there yet
            found = error
        if found and not isinstance(found, Exception):
            return found
        time.sleep(0.5)
    pytest.fail(f"never happened: {found}")


def test_a_run_sent_to_the_plot_fills_its_axes_and_makes_the_grid(web_ui: WebUI, page: Any) -> None:
    folder: Path = web_ui.adapter_folder() / "adapter-lab-xyz-page-tests"
    modules = linear_targets(targets(open_checkpoint(web_ui.checkpoint()).shapes), every=9)
    try:
        files = [(path.stem, step) for path, step in zip(write_run(folder, "al-page", "lokr", modules), (400, 800))]
        web_ui.refresh_adapters()
        scripts = web_ui.get("/sdapi/v1/scripts")["txt2img"]
        title = next(s for s in ("X/Y/Z plot", "X/Y/Z Plot") if s.lower() in scripts and s in page_titles(page))
        plot = run_plot(files, ["a cat, a mat", "a dog"], [7])
        infotext = f"{plot.infotext(title)}, Steps: 1, Sampler: Euler, CFG scale: 1, Size: 64x64"
        script = """
            const done = arguments[arguments.length - 1];
            import('/adapter-lab/v1/static/host.js').then((host) => {
                const there = host.hasPlot();
                if (there) host.sendToPlot(infotext);
                done(there);
            }).catch((error) => done(String(error)));
        """
        until(lambda: page.execute_async_script(f"const infotext = arguments[0]; {script}", infotext) is True, 90)
        found = until(lambda: (fields := page.execute_script(FIELDS))["types"][1] == "Prompt S/R" and fields, 60)
        assert found["prompt"] == "a cat, a mat <lora:al-page-000800:1>"
        assert found["types"][:2] == ["[Adapter Lab] Step", "Prompt S/R"]
        assert found["values"][:2] == ["none,400,800", '"a cat, a mat",a dog']
        page.execute_script("document.querySelector('#txt2img_generate').click()")
        # Three columns and their labels.
        until(lambda: max(page.execute_script(PICTURES), default=0) > 3 * 64)
    finally:
        shutil.rmtree(folder)
        web_ui.refresh_adapters()


def page_titles(page: Any) -> str:
    """What the page calls the X/Y/Z plot in its list of scripts."""
    look = "return JSON.stringify(window.gradio_config ?? {}).match(/X.Y.Z [Pp]lot/)?.[0]"
    return str(until(lambda: page.execute_script(look)))
