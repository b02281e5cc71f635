"""An app with the API, runs on disk, and a real server for streams."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapter_lab import config_file
from adapter_lab.api import Context, attach
from adapter_lab.config import TrainConfig
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker import Worker

API = "/adapter-lab/v1"
HEADERS = {"X-Adapter-Lab": "1"}
MakeRun = Callable[..., RunFolder]


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A program without a web UI that only this machine reaches."""
    root = tmp_path / "runs"
    root.mkdir()
    worker = Worker(root)
    yield Context(worker, tmp_path / "data")
    for run in worker.runs():
        if run.state in ("starting", "running", "stopping") and "claimed by the test" not in run.name:
            worker.stop(run.id, "now")
    worker.close()


@pytest.fixture
def app(context: Context) -> FastAPI:
    app = FastAPI()
    assert attach(app, context)
    return app


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """Speaks to the app as the page does."""
    return TestClient(app, base_url=f"http://localhost:7860{API}", headers=HEADERS, raise_server_exceptions=False)


@pytest.fixture
def make_run(context: Context) -> MakeRun:
    """Makes a run of some steps in the runs folder, as training leaves it."""

    def make(name: str = "cat", steps: int = 3, ended: str = "finished", **settings: Any) -> RunFolder:
        folder = RunFolder(context.worker.root / name)
        folder.path.mkdir(parents=True)
        config = TrainConfig()
        config.run.name = name
        for path, value in settings.items():
            section, setting = path.split("__")
            setattr(getattr(config, section), setting, value)
        config_file.write(config, folder.config)
        with EventLog(folder.events) as log:
            log.write("started", run=name, folder=folder.path, name=name, started_at=time.time(), algo="lora")
            for step in range(1, steps + 1):
                log.write("step", step=step, loss=1.0 / step, seconds_per_step=0.1, progress=step / max(steps, 1))
            if ended:
                log.write(ended, step=steps, reason="all steps are done", message="It went wrong.", adapters=[])
        return folder

    return make


@pytest.fixture
def server(app: FastAPI) -> Iterator[str]:
    """The app on a port of its own; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}{API}"
    running.should_exit = running.force_exit = True
    thread.join(timeout=10)
