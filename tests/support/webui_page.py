"""A web UI's page in a real browser."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.browser import browser, chromium

SECONDS = 300
PASTE = """
const box = document.querySelector("#txt2img_prompt textarea");
box.value = arguments[0];
box.dispatchEvent(new Event("input", { bubbles: true }));
setTimeout(() => document.querySelector("#paste").click(), 500);
"""
RESULTS = "return document.querySelector('#txt2img_results')?.innerText ?? '';"
FIELD = "return document.querySelector(arguments[0])?.value;"


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """A browser that shows the page at `url`; fails where there is no chromium with its driver."""
    if chromium() is None:
        pytest.fail("this needs chromium and chromedriver")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as driver:
        driver.set_window_size(1500, 1400)
        driver.set_script_timeout(60)
        driver.get(url)
        yield driver


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


def paste(page: Any, prompt: str, steps: int, settings: str) -> None:
    """Fill in txt2img from an image's infotext with the web UI's own button, and wait until it is filled in."""
    until(lambda: page.execute_script("return Boolean(document.querySelector('#paste'))"))

    fields = ("#txt2img_prompt textarea", "#txt2img_steps input[type=number]")

    def filled() -> bool:
        return [page.execute_script(FIELD, field) for field in fields] == [prompt, str(steps)]

    def again() -> bool:  # pressed before the page was ready, the button does nothing
        page.execute_script(PASTE, f"{prompt}\nSteps: {steps}, {settings}")
        try:
            return bool(until(filled, 20))
        except pytest.fail.Exception:
            return False

    until(again, 120)


def keep_picture(page: Any, name: str) -> None:
    """A screenshot for who looks at it: into the folder that ADAPTER_LAB_PICTURES names, if it names one."""
    if folder := os.environ.get("ADAPTER_LAB_PICTURES"):
        page.save_screenshot(str(Path(folder) / name))
