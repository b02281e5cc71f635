"""A browser, `adapter-lab ui` served with one gradio, and what a person does on the page."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapter_lab.environment.status import ROOT, runtime_folder, runtime_python, ui_packages

TOY = ROOT / "extension" / "adapter_lab" / "demo"
# A browser that only talks to the page: nothing of Chromium's own goes out.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# A wait that fails is rare and one that is long is not wrong: the machine may be busy with other tests.
WAIT_SECONDS = 300.0
PINNED = ("3.41.2", "4.40.0")


def chromium() -> tuple[str, str] | None:
    """Programs of the browser and its driver; None where one is missing."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, ("chromedriver",))]
    return (found[0], found[1]) if found[0] and found[1] else None


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def environments() -> dict[str, str]:
    """gradio version -> interpreter that has it; "6" is what `adapter-lab ui` has without a web UI."""
    found = {version: str(ROOT / f".ci-gradio-{version}" / "bin" / "python") for version in PINNED}
    if ui_packages(runtime_folder()).is_dir():
        found["6"] = str(runtime_python(runtime_folder()))
    return {version: python for version, python in found.items() if os.path.exists(python)}


def in_words() -> str:
    """What of the browser tests runs here and what does not, for whoever runs them."""
    if sys.platform == "win32" or chromium() is None:
        return "tests/browser: not collected; they need chromium and chromedriver (Debian: chromium, chromium-driver)"
    missing = [version for version in (*PINNED, "6") if version not in environments()]
    ran = f"tests/browser: gradio {', '.join(environments())}"
    return f"{ran}; not {', '.join(missing)}, whose environments .ci/run makes" if missing else ran


class Server:
    """`adapter-lab ui` in a folder of its own, with further `options`."""

    def __init__(self, python: str, folder: Path, options: Sequence[str] = ()) -> None:
        self.python, self.folder, self.options = python, folder, options
        self.runs = folder / "runs"
        self.console = folder / "console.txt"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until the page answers."""
        command = [self.python, "-m", "adapter_lab", "ui", "--port", str(self.port), "--runs-folder", str(self.runs)]
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                [*command, "--checkpoints", str(TOY), *self.options],
                cwd=self.folder,
                stdout=console,
                stderr=console,
                env={**os.environ, "PYTHONPATH": str(ROOT / "extension")},
            )
        wait_for(self._answers, "the page to answer", self.said)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.said()
        try:
            return urllib.request.urlopen(self.url, timeout=20).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def said(self) -> str:
        """What it wrote to its console."""
        return self.console.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """JSON of the API."""
        with urllib.request.urlopen(f"{self.url}/adapter-lab/v1{path}", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> None:
        """Have the API do something."""
        self.send("POST", path, body)

    def send(self, method: str, path: str, body: Any) -> None:
        """Have the API change something, as the page does."""
        headers = {"X-Adapter-Lab": "1", "Content-Type": "application/json"}
        address, content = f"{self.url}/adapter-lab/v1{path}", json.dumps(body).encode()
        urllib.request.urlopen(urllib.request.Request(address, content, headers, method=method), timeout=60).close()

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end_runs(self) -> None:
        """End what it still trains."""
        for run in self.get("/runs"):
            if run["state"] in ("starting", "running", "stopping"):
                self.post(f"/runs/{run['id']}/stop", {"how": "now"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    done: Callable[[], Any], what: str, more: Callable[[], str] = lambda: "", seconds: float = WAIT_SECONDS
) -> Any:
    """What `done` gives once that is something; an AssertionError names what did not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if given := done():
            return given
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}\n{more()}")


class Page:
    """The tab in a browser."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver, self.server = driver, server

    def open(self, theme: str = "light") -> None:
        """Open the page, and wait until the tab is drawn."""
        self.driver.get(f"{self.server.url}/?__theme={theme}")
        self.drawn()

    def drawn(self) -> None:
        """Wait until the tab is drawn."""
        self.wait(lambda: self.all("#al-tab-train"), "the tab to be drawn")

    def all(self, selector: str) -> list[Any]:
        """Elements by a CSS selector."""
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The first element, waited for."""
        return self.wait(lambda: next(iter(self.all(selector)), None), selector)

    def text(self, selector: str) -> str:
        """Text of the first element; a page that is being drawn again has none."""
        return str(self.driver.execute_script(TEXT, selector))

    def wait(self, done: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        """As `wait_for`, with what the page says."""
        return wait_for(done, what, lambda: f"{self.text('body')}\n{self.server.said()[-3000:]}", seconds)

    def wait_text(self, selector: str, wanted: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until an element's text holds `wanted`."""
        self.wait(lambda: wanted in self.text(selector), f"{wanted!r} in {selector}", seconds)

    def click(self, selector: str) -> None:
        """Click as a person does: after scrolling there, once it no longer moves."""
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        self.wait(lambda: self.driver.execute_async_script(STILL, element), f"{selector} to stay where it is")
        element.click()

    def type(self, setting: str, text: str) -> None:
        """Type into a setting's field, in place of what is there."""
        element = self.one(f"[data-setting='{setting}'] :is(input, textarea)")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select()", element)
        element.send_keys(text)

    def tab(self, key: str) -> None:
        """Choose a sub-tab."""
        self.click(f"#al-tab-{key}")

    def step(self) -> int:
        """The step that the Running tab shows."""
        shown = self.text("#al-fact-step").split("/")[0].strip()
        return int(shown) if shown else 0


# Whether an element is in the same place two frames later.
STILL = """
const [element, done] = arguments;
const place = () => JSON.stringify(element.getBoundingClientRect());
const before = place();
requestAnimationFrame(() => requestAnimationFrame(() => done(place() === before)));
"""
TEXT = "return (document.querySelector(arguments[0]) || {}).textContent || ''"


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A driver of a browser that knows nothing yet, of 1280 x 900 px."""
    from selenium import webdriver

    programs = chromium()
    assert programs is not None
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={folder}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver: Any) -> set[str]:
    """Addresses that the page has asked for since this was last called."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
