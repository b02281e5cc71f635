"""Runs over HTTP: looked at, steered, deleted; what cannot be started is said before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_lab.api import Context
from adapter_lab.api import runs as module
from adapter_lab.environment import status as environment
from adapter_lab.runs.requests import ACCEPT, PROMPTS, SAVE, STOP
from tests.support.full_disk import FullDisk
from tests.support.pictures import quarters, write
from tests.support.training import draw_pictures


def test_runs_are_listed_and_shown(client: TestClient, make_run: Any) -> None:
    make_run("cat")
    make_run("dog", ended="failed")
    found = {run["id"]: run for run in client.get("/runs").json()}
    assert set(found) == {"cat", "dog"} and found["dog"]["state"] == "failed"
    detail = client.get("/runs/cat").json()
    assert detail["config"]["run"]["name"] == "cat" and detail["step"] == 3
    assert client.get("/runs/cat/log").json() == {"text": ""}
    assert client.get("/runs/cat/series", params={"points": 2}).json()["offset"] == detail["offset"]


def test_settings_of_two_runs_are_compared(client: TestClient, make_run: Any) -> None:
    make_run("cat", network__dim=8)
    make_run("dog", network__dim=4)
    rows = {row["setting"]: (row["left"], row["right"]) for row in client.get("/runs/cat/diff/dog").json()}
    assert rows["network.dim"] == (8, 4)
    assert client.get("/runs/cat/diff/cow").status_code == 404


@pytest.mark.parametrize("run_id", ["gone", "a%2fb", "%00", "..%5c..", "x" * 3000])
@pytest.mark.parametrize("rest", ["", "/series", "/log", "/events", "/samples/a.png", "/picture?path=a.png"])
def test_what_is_no_run_is_not_found(run_id: str, rest: str, client: TestClient, context: Context) -> None:
    (context.worker.root.parent / "config.toml").write_text("")  # the folder above would pass for a run
    assert client.get(f"/runs/{run_id}{rest}").status_code in (404, 400)


def test_a_folder_that_vanishes_is_not_found_afterwards(client: TestClient, make_run: Any) -> None:
    folder = make_run("cat")
    assert client.get("/runs/cat").status_code == 200
    for path in sorted(folder.path.rglob("*"), reverse=True):
        path.unlink()
    folder.path.rmdir()
    answer = client.get("/runs/cat")
    assert answer.status_code == 404 and "deleted" in answer.json()["error"] and client.get("/runs").json() == []


def test_samples_are_those_of_the_run(client: TestClient, make_run: Any, tmp_path: Path) -> None:
    folder = make_run("cat")
    sample = write(folder.samples, "a.png", quarters(20, 10))
    write(tmp_path, "secret.png")
    answer = client.get("/runs/cat/samples/a.png")
    assert answer.content == sample.read_bytes() and answer.headers["content-type"] == "image/png"
    (folder.samples / "link.png").symlink_to(tmp_path / "secret.png")
    (folder.samples / "notes.txt").write_text("secret")
    for name in ("b.png", "..%2fconfig.toml", "notes.txt", "link.png", "%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret.png"):
        assert client.get(f"/runs/cat/samples/{name}").status_code == 404, name


def test_pictures_are_those_of_the_runs_folders(client: TestClient, make_run: Any, tmp_path: Path) -> None:
    picture = write(tmp_path / "pictures", "a.png", quarters(20, 10))
    secret = write(tmp_path / "private", "a.png")
    make_run("cat", dataset__folder=str(tmp_path / "pictures"))
    assert client.get("/runs/cat/picture", params={"path": str(picture)}).content == picture.read_bytes()
    for path in (secret, tmp_path / "pictures" / ".." / "private" / "a.png", "/etc/passwd", ""):
        assert client.get("/runs/cat/picture", params={"path": str(path)}).status_code == 403


def test_a_run_is_deleted_unless_it_trains(client: TestClient, make_run: Any) -> None:
    folder = make_run("cat", ended="")
    with folder.claimed():
        answer = client.delete("/runs/cat")
        assert answer.status_code == 400 and "stop it first" in answer.json()["error"]
    assert client.delete("/runs/cat", params={"adapters": True}).status_code == 200
    assert not folder.path.exists() and client.delete("/runs/cat").status_code == 404


def test_a_living_run_is_told_to_save_and_stop_and_takes_prompts(client: TestClient, make_run: Any) -> None:
    folder = make_run("cat", ended="")
    with folder.claimed():
        assert client.post("/runs/cat/save").status_code == 200 and (folder.path / SAVE).exists()
        assert client.put("/runs/cat/prompts", json={"prompts": [" a cat "]}).status_code == 200
        assert json.loads((folder.path / PROMPTS).read_text()) == ["a cat"]
        assert client.post("/runs/cat/stop").status_code == 200 and (folder.path / STOP).exists()
        assert client.get("/runs/cat").json()["state"] == "stopping"
    answer = client.post("/runs/cat/save")
    assert answer.status_code == 400 and "does not train" in answer.json()["error"]


def test_the_queue_is_paused_reordered_and_emptied(client: TestClient, make_run: Any) -> None:
    for name in ("cat", "dog"):
        make_run(name, ended="", base__checkpoint="a", dataset__folder="b", run__steps=9)
    assert client.put("/queue", json={"paused": True}).json()["paused"]
    for name in ("cat", "dog"):
        answer = client.post(f"/runs/{name}/resume", json={"settings": {"run.steps": 20}})
        assert answer.status_code == 200, answer.text
    assert client.get("/queue").json()["order"] == ["cat", "dog"]
    assert client.put("/queue", json={"order": ["dog", "no such"]}).json()["order"] == ["dog", "cat"]
    assert client.delete("/queue/dog").json()["order"] == ["cat"]
    assert client.get("/runs/cat").json()["state"] == "queued"
    assert client.get("/runs/cat").json()["config"]["run"]["steps"] == 20
    assert client.delete("/queue/gone").status_code == 404


def test_a_resumed_run_stays_the_same_run(client: TestClient, make_run: Any) -> None:
    make_run("cat", base__checkpoint="a", dataset__folder="b", run__steps=9)
    for settings, said in (({"network.dim": 3}, "cannot be changed"), ({"run.steps": "x"}, "whole number")):
        answer = client.post("/runs/cat/resume", json={"settings": settings})
        assert answer.status_code == 400 and said in answer.json()["error"]


@pytest.mark.parametrize("accepted", [True, False])
def test_changed_pictures_are_accepted_where_that_is_asked_for(
    client: TestClient, make_run: Any, accepted: bool
) -> None:
    folder = make_run("cat", base__checkpoint="a", dataset__folder="b", run__steps=9)
    client.put("/queue", json={"paused": True})
    answer = client.post("/runs/cat/resume", json={"settings": {"run.steps": 20}, "accept_pictures": accepted})
    assert answer.status_code == 200, answer.text
    assert (folder.path / ACCEPT).exists() == accepted


def test_a_folder_is_opened_on_this_machine_only(
    client: TestClient, context: Context, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(module, "show", opened.append)
    folder = make_run("cat")
    assert client.post("/runs/cat/open-folder").status_code == 200 and opened == [folder.path]
    context.public = lambda: True
    assert client.post("/runs/cat/open-folder").status_code == 403 and len(opened) == 1


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    """Settings that are complete and name files that are there."""
    (tmp_path / "base.safetensors").write_bytes(b"x")
    return {
        "base.checkpoint": str(tmp_path / "base.safetensors"),
        "dataset.folder": str(draw_pictures(tmp_path / "pictures", 2)),
        "run.steps": 3,
        "run.name": "cat",
    }


def _start(client: TestClient, settings: dict[str, Any], **more: Any) -> Any:
    return client.post("/runs", json={"settings": settings, **more})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset.folder": ""}, "dataset.folder"),
        ({"dataset.folder": "/gone"}, "dataset.folder"),
        ({"base.checkpoint": "/gone.safetensors"}, "base.checkpoint"),
        ({"network.factor": 4}, "network.factor"),
        ({"run.name": "../x"}, "run.name"),
        ({"network.dim": "x"}, "network.dim"),
        ({"no.such": 1}, "no.such"),
        ({"run.steps": 0}, "run.steps"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_settings_named(
    change: dict[str, Any], named: str, client: TestClient, context: Context, good: dict[str, Any]
) -> None:
    answer = _start(client, {**good, **change})
    assert answer.status_code == 400 and named in {problem["setting"] for problem in answer.json()["problems"]}
    assert client.get("/runs").json() == []


def test_a_run_is_queued_with_its_files_where_the_web_ui_finds_them(
    client: TestClient, context: Context, good: dict[str, Any], tmp_path: Path
) -> None:
    context.own_adapter_folders = [tmp_path / "Lora"]
    client.put("/queue", json={"paused": True})
    answer = _start(client, good)
    assert answer.status_code == 200, answer.text
    detail = client.get(f"/runs/{answer.json()['id']}").json()
    assert detail["state"] == "queued" and detail["config"]["run"]["output_folder"] == str(tmp_path / "Lora" / "cat")
    again = _start(client, good)
    assert again.status_code == 200 and again.json()["id"] != answer.json()["id"]
    assert client.get("/queue").json()["order"] == [answer.json()["id"], again.json()["id"]]


def test_relative_paths_are_stored_whole_so_that_a_run_resumes_from_elsewhere(
    client: TestClient, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    client.put("/queue", json={"paused": True})
    relative = {
        "base.checkpoint": "base.safetensors",
        "dataset.folder": "~/pictures",
        "dataset.cache_folder": "cache",
        "dataset.sources": [{"folder": "pictures"}],
        "network.frozen_adapters": ["base.safetensors:0.5"],
        "run.output_folder": "out",
    }
    answer = _start(client, {**good, **relative})
    assert answer.status_code == 200, answer.text
    config = client.get(f"/runs/{answer.json()['id']}").json()["config"]
    assert config["base"]["checkpoint"] == str(tmp_path / "base.safetensors")
    assert config["base"]["vae"] == ""
    assert config["dataset"]["folder"] == config["dataset"]["sources"][0]["folder"] == str(tmp_path / "pictures")
    assert config["dataset"]["cache_folder"] == str(tmp_path / "cache")
    assert config["network"]["frozen_adapters"] == [f"{tmp_path / 'base.safetensors'}:0.5"]
    assert config["run"]["output_folder"] == str(tmp_path / "out")


def test_without_the_private_environment_nothing_starts_and_the_command_is_said(
    client: TestClient, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path / "no environment"))
    assert client.get("/status").json()["environment"]["ready"] is False
    assert environment.install_command() in client.get("/status").json()["environment"]["run"]
    for answer in (_start(client, good), client.post("/estimate", json={"settings": {"base.family": "sd15"}})):
        assert answer.status_code == 400 and "install.py" in answer.json()["error"]
    assert client.get("/runs").json() == []


def test_a_second_run_at_once_is_refused_but_may_be_queued(
    client: TestClient, good: dict[str, Any], make_run: Any
) -> None:
    folder = make_run("claimed by the test", ended="")
    with folder.claimed():
        assert client.get("/status").json()["active"] == "claimed by the test"
        answer = _start(client, good, when="now")
        assert answer.status_code == 400 and "queue" in answer.json()["error"]
        assert _start(client, good, when="queue").status_code == 200


def test_a_full_disk_starts_nothing(
    client: TestClient, good: dict[str, Any], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, 100)
    answer = _start(client, good)
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]
    assert client.get("/runs").json() == []


@pytest.mark.parametrize(
    "setting",
    ["base.checkpoint", "base.vae", "dataset.folder", "dataset.regularisation_folder", "dataset.cache_folder"]
    + ["network.start_from", "run.output_folder", "network.frozen_adapters", "dataset.sources"],
)
def test_strangers_may_name_paths_of_the_allowed_folders_only(
    setting: str, client: TestClient, context: Context, good: dict[str, Any], tmp_path: Path
) -> None:
    context.public = lambda: True
    context.folders = lambda: [tmp_path / "pictures", tmp_path / "base.safetensors"]
    private = tmp_path / "private"
    private.mkdir()
    given: Any = {"network.frozen_adapters": [f"{private}:0.5"], "dataset.sources": [{"folder": str(private)}]}
    values = {**good, setting: given.get(setting, str(private))}
    for answer in (
        _start(client, values),
        client.post("/estimate", json={"settings": values}),
        client.post("/dataset/report", json={"settings": values}),
    ):
        assert answer.status_code == 403 and str(private) in answer.json()["error"], answer.text
    assert client.get("/runs").json() == []


def test_strangers_may_train_and_study_with_what_lies_in_the_allowed_folders(
    client: TestClient, context: Context, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # which is none of them
    context.public = lambda: True
    context.folders = lambda: [tmp_path / "pictures", tmp_path / "base.safetensors"]
    client.put("/queue", json={"paused": True})
    started = _start(client, good)
    assert started.status_code == 200, started.text
    assert (context.worker.root / started.json()["id"] / "config.toml").is_file()
    resumed = client.post(f"/runs/{started.json()['id']}/resume", json={"settings": {"run.steps": 4}})
    assert resumed.status_code == 200, resumed.text
    shared = {name: good[name] for name in ("base.checkpoint", "dataset.folder")}
    study = {"name": "two", "settings": {**shared, "optimizer.name": "adamw"}, "budget": {"unit": "steps", "amount": 8}}
    answer = client.post("/studies", json={**study, "variants": [{"name": "a", "settings": {"network.dim": 8}}]})
    assert answer.status_code == 200, answer.text


def test_strangers_reach_no_home_folder_by_a_tilde(
    client: TestClient, context: Context, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web_ui, home = tmp_path / "web-ui", tmp_path / "home"
    web_ui.mkdir()
    draw_pictures(home / "private", 2)
    monkeypatch.chdir(web_ui)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    context.public = lambda: True
    context.folders = lambda: [web_ui, tmp_path / "base.safetensors"]
    answer = _start(client, {**good, "dataset.folder": "~/private"})
    assert answer.status_code == 403 and "lies outside" in answer.json()["error"]


def test_two_pages_that_start_at_once_make_two_runs(client: TestClient, good: dict[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client.put("/queue", json={"paused": True})
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: _start(client, {**good, "run.name": name}), ["a", "a", "b", "c"]))
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 4 and set(client.get("/queue").json()["order"]) == ids
