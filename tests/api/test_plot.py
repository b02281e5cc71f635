"""What "Send to X/Y/Z plot" asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_lab.api import Context
from adapter_lab.hosts import start
from adapter_lab.runs.events import EventLog
from tests.api.conftest import MakeRun


@pytest.fixture
def in_a_web_ui(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.host = SimpleNamespace(adapter_folder=list)  # type: ignore[assignment]
    monkeypatch.setattr(start, "axes", lambda: SimpleNamespace(title=lambda: "X/Y/Z Plot"))


def saved(folder: Any, place: Path) -> None:
    with EventLog(folder.events) as log:
        for step in (100, 200):
            path = place / f"lucy-{step:06d}.safetensors"
            path.write_bytes(b"x")
            log.write("saved", step=step, path=path, bytes=1, final=False, removed=[])


@pytest.mark.usefixtures("in_a_web_ui")
def test_the_files_of_a_run_become_steps(client: TestClient, make_run: MakeRun, tmp_path: Path) -> None:
    saved(make_run(ended="", preview__prompts=["a cat, a mat"], preview__seed=7), tmp_path)
    found = client.get("/runs/cat/plot").json()
    assert found["infotext"] == (
        "a cat, a mat <lora:lucy-000200:1>\nSeed: 7, Script: X/Y/Z Plot, "
        'X Type: [Adapter Lab] Step, X Values: "none,100,200"'
    )


@pytest.mark.usefixtures("in_a_web_ui")
def test_a_run_that_has_saved_nothing_is_told_so(client: TestClient, make_run: MakeRun) -> None:
    make_run()
    answer = client.get("/runs/cat/plot")
    assert answer.status_code in (403, 409) and "has not saved an adapter yet" in answer.json()["error"]


def test_without_a_web_ui_there_is_no_plot(client: TestClient, make_run: MakeRun) -> None:
    make_run()
    assert "There is no X/Y/Z plot here" in client.get("/runs/cat/plot").json()["error"]
    assert client.get("/runs/nobody/plot").status_code == 404
