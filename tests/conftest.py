"""Which tests are collected."""

from __future__ import annotations

import os
import random

import pytest
import torch

from tests.support import browser

HOST_VARIABLES = ("WEBUI_DIR", "WEBUI_URL")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test draws the same numbers whatever ran before it in its process."""
    random.seed(0)
    torch.manual_seed(0)


def _runs_hosts(config: pytest.Config) -> bool:
    parallel = getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput")
    return any(os.environ.get(name) for name in HOST_VARIABLES) and not parallel


def _runs_browser() -> bool:
    return browser.chromium() is not None and bool(browser.environments())


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [_hosts_in_words(config), browser.in_words()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say again at the end what the header said: what is not run must not pass for passed."""
    for line in (_hosts_in_words(config), browser.in_words()):
        terminalreporter.write_line(line)


def _hosts_in_words(config: pytest.Config) -> str:
    if _runs_hosts(config):
        return f"tests/hosts: {' '.join(f'{name}={os.environ[name]}' for name in HOST_VARIABLES if name in os.environ)}"
    return "tests/hosts: not collected; they need WEBUI_DIR or WEBUI_URL and one process (CONTRIBUTING.md)"


def pytest_ignore_collect(collection_path: os.PathLike[str], config: pytest.Config) -> bool | None:
    runs = {"hosts": _runs_hosts(config), "browser": _runs_browser()}
    here = os.path.dirname(__file__)
    left_out = [os.path.join(here, name) for name, collected in runs.items() if not collected]
    return True if str(collection_path) in left_out else None
