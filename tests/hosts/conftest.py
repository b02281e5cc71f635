"""One web UI for all tests here: started from WEBUI_DIR, or running at WEBUI_URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG
from tests.support.host_measure import Bench
from tests.support.webui import PROBE, WebUI, started


@pytest.fixture(scope="session")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The web UI, with Adapter Lab and the probe in it."""
    if "WEBUI_URL" in os.environ:
        running = WebUI(os.environ["WEBUI_URL"])
        try:
            running.wait(10)
        except TimeoutError as error:
            pytest.exit(f"{error}; start it with --api and a copy of {PROBE} in its extensions/", returncode=2)
        yield running
        return
    log = tmp_path_factory.mktemp("webui") / "console.txt"
    with started(Path(os.environ["WEBUI_DIR"]), log) as web_ui:
        yield web_ui


@pytest.fixture(scope="session")
def bench(web_ui: WebUI) -> Iterator[Bench]:
    """Adapter files of every case in the web UI's folder, and measuring."""
    bench = Bench(web_ui)
    yield bench
    bench.remove_files()


@pytest.fixture(scope="module", params=[ONLY_WRONG, EVERY_FILE])
def scope(request: pytest.FixtureRequest, web_ui: WebUI) -> Iterator[str]:
    """Which files Adapter Lab loads; the tests of one setting run together."""
    with web_ui.options(adapter_lab_scope=request.param):
        yield request.param


# Tests that are collected only where the web UI's folder has this.
NEEDED = {
    "test_block_weights.py": ("extensions/*/scripts/lora_block_weight.py", "the extension sd-webui-lora-block-weight"),
    "test_step_weights.py": ("extensions/*/scripts/loractl.py", "the extension sd-webui-loractl"),
    "test_anima.py": ("models/Stable-diffusion/anima*.safetensors", "an Anima checkpoint, its text encoder and VAE"),
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if collection_path.name in _left_out() else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what is not run, as it must not pass for passed."""
    for name, what in _left_out().items():
        terminalreporter.write_line(f"tests/hosts/{name}: not collected; it needs {what}")


def _left_out() -> dict[str, str]:
    if "WEBUI_DIR" not in os.environ:
        return {}
    folder = Path(os.environ["WEBUI_DIR"])
    return {name: what for name, (pattern, what) in NEEDED.items() if not any(folder.glob(pattern))}
