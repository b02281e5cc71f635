"""In a web UI: attached to each of its servers, one worker over reloads, and the GPU given and waited for."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapter_lab.api import in_host
from adapter_lab.hosts import start
from adapter_lab.hosts.families.unknown import UnknownHost
from adapter_lab.hosts.families.webui import api_credentials, listens_beyond
from adapter_lab.hosts.gpu_handover import GpuHandover
from adapter_lab.hosts.settings import ASK, GO_ON, WAIT, Settings

API = "/adapter-lab/v1"


class Host(UnknownHost):
    """A web UI that counts how often it was asked for its GPU."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.freed = folder, 0

    def adapter_folder(self) -> list[Path]:
        return [self.folder / "Lora"]

    def checkpoints(self) -> list[Any]:
        return []

    def free_gpu(self) -> None:
        self.freed += 1


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The command-line options of a web UI whose data are in tmp_path."""
    options = SimpleNamespace(embeddings_dir=str(tmp_path / "embeddings"))
    contents: dict[str, dict[str, Any]] = {
        "modules": {},
        "modules.shared": {"cmd_opts": options, "opts": SimpleNamespace()},
        "modules.paths_internal": {"data_path": str(tmp_path)},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(in_host, "_worker", [])
    monkeypatch.setattr(in_host, "_handover", [])
    return options


def _started(host: Host, demo: Any = None, **settings: Any) -> TestClient:
    app = FastAPI()
    in_host.on_app_started(host, Settings(SimpleNamespace(**settings)), demo, app)
    return TestClient(app, base_url=f"http://localhost:7860{API}", headers={"X-Adapter-Lab": "1"})


def test_every_server_gets_the_api_and_all_share_one_worker(options: Any, tmp_path: Path) -> None:
    host = Host(tmp_path)
    status = _started(host).get("/status").json()
    assert status["runs_folder"] == str(tmp_path / "adapter-lab" / "runs") and status["while_training"] == ASK
    assert status["adapter_folder"] == str(tmp_path / "Lora") and status["allow_paths"] is True
    worker = in_host._worker[0]
    assert _started(host).get("/status").status_code == 200 and in_host._worker == [worker]  # after "Reload UI"
    other = _started(host, adapter_lab_runs_folder=str(tmp_path / "other"))
    assert other.get("/status").json()["runs_folder"] == str(tmp_path / "other") and in_host._worker != [worker]
    in_host._worker[0].close()


def test_the_api_password_of_the_web_ui_holds(options: Any, tmp_path: Path) -> None:
    options.api_auth = "me:a:b,you:secret"
    client = _started(Host(tmp_path))
    assert client.get("/status").status_code == 401
    assert client.get("/status", auth=("me", "a:b")).status_code == 200
    assert api_credentials() == {"me": "a:b", "you": "secret"}
    in_host._worker[0].close()


@pytest.mark.parametrize(
    ("given", "beyond"),
    [
        ({}, False),
        ({"listen": True}, True),
        ({"share": True}, True),
        ({"server_name": "127.0.0.1"}, False),
        ({"server_name": "0.0.0.0"}, True),
        ({"server_name": "my-pc"}, True),
    ],
)
def test_whether_others_can_reach_the_web_ui(given: dict[str, Any], beyond: bool, options: Any, tmp_path: Path) -> None:
    vars(options).update(given)
    assert listens_beyond() is beyond
    assert _started(Host(tmp_path)).get("/status").json()["allow_paths"] is not beyond
    in_host._worker[0].close()


def test_a_web_ui_that_cannot_be_attached_to_goes_on(
    options: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter-lab").write_text("a file in the way")
    _started(Host(tmp_path))
    assert "attaching" in capsys.readouterr().out


def _handover(host: Host, runs: list[Any], **chosen: Any) -> GpuHandover:
    return GpuHandover(host, Settings(SimpleNamespace(**chosen)), lambda: runs[0] if runs else None)


def test_a_training_gets_the_gpu_unless_told_otherwise(tmp_path: Path) -> None:
    host = Host(tmp_path)
    _handover(host, []).give_gpu()
    _handover(host, [], adapter_lab_free_gpu=False).give_gpu()
    assert host.freed == 1


RUN = SimpleNamespace(id="1", name="cat", progress=0.5)


def _state() -> SimpleNamespace:
    return SimpleNamespace(interrupted=False, stopping_generation=False, textinfo=None)


def _waits(handover: GpuHandover, state: SimpleNamespace) -> threading.Thread:
    waiting = threading.Thread(target=handover.wait, args=(state,), daemon=True)
    waiting.start()
    time.sleep(0.3)
    return waiting


@pytest.mark.parametrize("chosen", [ASK, GO_ON])
def test_pictures_are_made_while_training_unless_they_shall_wait(chosen: str, tmp_path: Path) -> None:
    assert not _waits(_handover(Host(tmp_path), [RUN], adapter_lab_while_training=chosen), _state()).is_alive()


@pytest.fixture
def script_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our script as a web UI has it, with handover that it takes."""

    def make(handover: GpuHandover, state: SimpleNamespace) -> Any:
        monkeypatch.setattr(start, "_handover", [handover])
        monkeypatch.setitem(sys.modules, "modules.shared", SimpleNamespace(state=state))
        scripts = SimpleNamespace(Script=object, AlwaysVisible="always")
        return start.script_class(scripts, None, None)()

    return make


@pytest.mark.parametrize(("chosen", "waits"), [(ASK, True), (WAIT, True), (GO_ON, False)])
@pytest.mark.parametrize("is_img2img", [False, True])
def test_api_calls_have_nobody_to_ask_and_wait(
    chosen: str, waits: bool, is_img2img: bool, script_of: Any, tmp_path: Path
) -> None:
    runs, state = [RUN], _state()
    script = script_of(_handover(Host(tmp_path), runs, adapter_lab_while_training=chosen), state)
    assert script.show(is_img2img) == "always"
    page, api = SimpleNamespace(), SimpleNamespace(is_api=True)
    begun = time.monotonic()
    if chosen == ASK:
        script.before_process(page)  # its person was asked
        assert time.monotonic() - begun < 0.3
    calling = threading.Thread(target=script.before_process, args=(api,), daemon=True)
    calling.start()
    time.sleep(0.3)
    assert calling.is_alive() == waits and (state.textinfo is not None) == waits
    runs.clear()
    calling.join(timeout=3)
    assert not calling.is_alive() and state.textinfo is None


@pytest.mark.parametrize("how", ["the run ends", "another begins", "interrupted", "stopped"])
def test_a_picture_waits_for_the_run_that_trains(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, state = [RUN], _state()
    waiting = _waits(_handover(Host(tmp_path), runs, adapter_lab_while_training=WAIT), state)
    assert waiting.is_alive() and "cat (50%)" in state.textinfo and "cat has ended" in capsys.readouterr().out
    changes: dict[str, Any] = {
        "the run ends": runs.clear,
        "another begins": lambda: runs.__setitem__(0, SimpleNamespace(id="2", name="dog", progress=0.0)),
        "interrupted": lambda: setattr(state, "interrupted", True),
        "stopped": lambda: setattr(state, "stopping_generation", True),
    }
    changes[how]()
    waiting.join(timeout=3)
    assert not waiting.is_alive()


def test_a_picture_and_a_training_that_asks_for_the_gpu_do_not_wait_for_each_other(tmp_path: Path) -> None:
    lock = threading.Lock()

    class Locked(Host):
        def free_gpu(self) -> None:
            with lock:  # as web UIs hold it while they make an image
                super().free_gpu()

    host = Locked(tmp_path)
    handover = _handover(host, [RUN], adapter_lab_while_training=WAIT)
    with lock:
        asking = threading.Thread(target=handover.give_gpu, daemon=True)
        asking.start()
        time.sleep(0.2)
        begun = time.monotonic()
        handover.wait(_state())
        assert time.monotonic() - begun < 2
    asking.join(timeout=3)
    assert host.freed == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_the_api_is_imported_before_the_port_opens_if_there_is_to_be_one(
    wanted: bool, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "api"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "api.py").touch()
    monkeypatch.setattr(sys.modules["modules"], "__path__", [str(tmp_path)], raising=False)
    options.api = wanted
    in_host.before_ui()
    assert ("modules.api.api" in sys.modules) is wanted
    for name in ("modules.api.api", "modules.api"):
        sys.modules.pop(name, None)


def test_an_api_that_cannot_be_imported_is_said(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options.api = True
    in_host.before_ui()
    assert "importing the web UI's API" in capsys.readouterr().out
