"""Adapter files over HTTP: inspected, written again, downloaded; every option is the command's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from adapter_lab.api import Context
from adapter_lab.api.dataset import KEPT_ESTIMATES
from adapter_lab.api.tools import COMMANDS
from adapter_lab.cli.parser import make_parser
from tests.support.training import draw_pictures

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA of one layer."""
    torch.manual_seed(0)
    path = tmp_path / "cat.safetensors"
    tensors = {f"{NAME}.lora_down.weight": torch.randn(4, 320), f"{NAME}.lora_up.weight": torch.randn(320, 4)}
    save_file({**tensors, f"{NAME}.alpha": torch.tensor(4.0)}, path)
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_one_of_the_command_and_none_is_left_out(name: str) -> None:
    commands: Any = next(action for action in make_parser()._actions if action.choices)
    actions = {
        action.option_strings[-1].lstrip("-").replace("-", "_") if action.option_strings else action.dest
        for action in commands.choices[name]._actions
    }
    ours = {parameter.name for parameter in COMMANDS[name][1]}
    assert ours - {"overwrite"} == actions - {"help", "json", "traceback"}


def test_a_file_is_inspected(client: TestClient, adapter: Path) -> None:
    found = client.post("/files/inspect", json={"path": str(adapter)}).json()
    assert found["algorithms"] == {"lora": 1} and set(found["alone"]) >= {"A1111", "Forge"}


def test_a_file_is_resized_once_and_downloaded(client: TestClient, context: Context, adapter: Path) -> None:
    context.own_adapter_folders = [adapter.parent]
    body = {"adapter": str(adapter), "rank": 2, "out": "small"}
    answer = client.post("/files/resize", json=body)
    assert answer.status_code == 200, answer.text
    out = adapter.parent / "small.safetensors"
    assert out.is_file() and adapter.is_file()
    again = client.post("/files/resize", json=body)
    assert again.status_code == 400 and "already" in again.json()["error"]
    got = client.get("/files/download", params={"path": str(out)})
    assert got.content == out.read_bytes() and "small.safetensors" in got.headers["content-disposition"]


def test_the_commands_own_sentence_arrives(client: TestClient, adapter: Path, tmp_path: Path) -> None:
    answer = client.post("/files/resize", json={"adapter": str(adapter), "out": str(tmp_path / "x")})
    assert answer.status_code == 400 and "rank" in answer.json()["error"] and "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["", "/gone.safetensors", "--help", "a\0b"])
def test_a_file_that_is_not_there_is_said(path: str, client: TestClient, tmp_path: Path) -> None:
    for route, body in (
        ("inspect", {"path": path}),
        ("resize", {"adapter": path, "rank": 2, "out": str(tmp_path / "x")}),
        ("merge", {"adapter": [path], "out": str(tmp_path / "x")}),
    ):
        answer = client.post(f"/files/{route}", json=body)
        assert answer.status_code in (400, 404) and answer.json()["error"], (route, answer.text)
    assert client.post("/files/merge", json={"adapter": [], "out": str(tmp_path / "x")}).status_code == 400


def test_only_adapter_files_are_downloaded(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", tmp_path / "gone.safetensors", "/etc/passwd"):
        assert client.get("/files/download", params={"path": str(path)}).status_code == 404


def test_strangers_read_and_write_in_the_allowed_folders_only(
    client: TestClient, context: Context, adapter: Path, tmp_path: Path
) -> None:
    context.public = lambda: True
    inside = context.worker.root / "in.safetensors"
    inside.write_bytes(adapter.read_bytes())
    for answer in (
        client.post("/files/inspect", json={"path": str(adapter)}),
        client.post("/files/resize", json={"adapter": str(adapter), "rank": 2, "out": str(context.worker.root / "x")}),
        client.post("/files/resize", json={"adapter": str(inside), "rank": 2, "out": str(tmp_path / "x")}),
        client.get("/files/download", params={"path": str(adapter)}),
    ):
        assert answer.status_code == 403
    assert client.post("/files/inspect", json={"path": str(inside)}).status_code == 200


def test_a_folder_is_reported_on_without_the_rest_of_the_form(client: TestClient, tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "pictures", 3)
    settings = {"dataset.folder": str(folder), "dataset.resolution": 64, "network.factor": 4}
    answer = client.post("/dataset/report", json={"settings": settings})
    assert answer.status_code == 200, answer.text
    for settings, said in (({}, "folder"), ({"dataset.folder": str(folder)}, "resolution")):
        answer = client.post("/dataset/report", json={"settings": settings})
        assert answer.status_code == 400 and said in answer.json()["error"]
    answer = client.post("/dataset/report", json={"settings": {"dataset.folder": "/gone", "dataset.resolution": 64}})
    assert answer.status_code == 400 and "/gone" in answer.json()["error"]


def test_a_run_is_estimated(client: TestClient) -> None:
    answer = client.post("/estimate", json={"settings": {"base.family": "sd15"}, "memory": False})
    assert answer.status_code == 200 and "file_bytes" in answer.json(), answer.text


def test_the_same_estimate_is_not_made_twice(
    client: TestClient, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(context.worker, "external", lambda kind, argv: made.append(kind) or {"file_bytes": len(made)})
    base = tmp_path / "base.safetensors"
    base.write_bytes(b"one")
    question = {"settings": {"base.checkpoint": str(base)}, "memory": False}
    answers = [client.post("/estimate", json=question).json() for _ in range(2)]
    assert answers == [{"file_bytes": 1}] * 2 and made == ["file size"]
    base.write_bytes(b"another")
    assert client.post("/estimate", json=question).json() == {"file_bytes": 2}
    for dim in range(1, KEPT_ESTIMATES + 10):
        client.post("/estimate", json={"settings": {"base.family": "sd15", "network.dim": dim}, "memory": False})
    assert len(context.estimates) == KEPT_ESTIMATES
