"""Settings over HTTP: what the form is drawn from, what values come to, presets, and files that are imported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from adapter_lab import config_file
from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.api import Context
from adapter_lab.config import TrainConfig, default_of, number_of, sections, settings, type_of, words_of
from adapter_lab.presets import STUDY, preset, preset_table
from tests.support.full_disk import FullDisk

SETTINGS = list(settings())
OWNERS = dict(sections())


def _resolve(client: TestClient, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post("/config/resolve", json={"settings": values, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_schema_has_every_setting_with_what_the_form_needs(client: TestClient) -> None:
    found = {row["path"]: row for section in client.get("/schema").json()["sections"] for row in section["settings"]}
    assert list(found) == [f"{section}.{name}" for section, name, _ in SETTINGS]
    for section, name, entry in SETTINGS:
        row = found[f"{section}.{name}"]
        assert row["default"] == default_of(entry) and row["help"] == entry.metadata["help"] and row["label"]
        assert row["words"] == list(words_of(type_of(OWNERS[section], name)))
        assert row["choices"] == (list(entry.metadata["choices"]) if entry.metadata["choices"] else None)
    assert [row["path"] for row in found["network.rules"]["item"]][:2] == ["network.rules.match", "network.rules.algo"]


def test_the_schema_has_every_type_with_valid_settings(client: TestClient) -> None:
    types = client.get("/schema").json()["types"]
    assert [kind["key"] for kind in types] == list(ADAPTER_TYPES)
    for kind in types:
        assert not [p for p in _resolve(client, kind["settings"])["problems"] if p["setting"].startswith("network")]


def test_values_come_back_whole_and_as_a_file_that_can_be_read(client: TestClient) -> None:
    found = _resolve(client, {"network.dim": 7, "optimizer.lr": 1, "preview.prompts": ["a", "b"]})
    assert found["settings"]["network.dim"] == 7 and len(found["settings"]) == len(SETTINGS)
    assert found["changed"] == {"network.dim": 7, "optimizer.lr": 1.0, "preview.prompts": ["a", "b"]}
    assert config_file.loads(found["toml"]).network.dim == 7
    assert found["used"]["network.dim"] and not found["used"]["network.factor"]
    assert {problem["setting"] for problem in found["problems"]} == {"base.checkpoint", "dataset.folder", "run.steps"}


def test_settings_go_on_top_of_a_preset(client: TestClient) -> None:
    found = _resolve(client, {"network.dim": 5}, preset=STUDY)
    assert found["settings"]["network.dim"] == 5 and found["settings"]["run.minutes"] == 450
    refused = client.post("/config/resolve", json={"preset": "no such"})
    assert refused.status_code == 404 and "no such" in refused.json()["error"]


def test_what_the_chosen_type_ignores_is_a_problem_or_dropped_with_a_remark(client: TestClient) -> None:
    values = {"network.algo": "ia3", "network.dim": 8}
    assert "network.dim" in {problem["setting"] for problem in _resolve(client, values)["problems"]}
    found = _resolve(client, values, drop_ignored=True)
    assert "network.dim" not in found["changed"] and any("network.dim" in remark for remark in found["remarks"])


def _bad_values() -> list[Any]:
    """For every setting a value of each wrong type, one beyond each end of its range, and one that is no choice."""
    wrong = {str: [3, ["a"]], int: ["x", 1.5, True, None, 10**400], float: ["x", True, []], bool: ["yes", 1]}
    cases = []
    for section, name, entry in SETTINGS:
        kind, meta, path = number_of(type_of(OWNERS[section], name)), entry.metadata, f"{section}.{name}"
        values = list(wrong.get(kind, [3, {"a": 1}, [[]]]))
        if get_args(kind):
            values.append([{"no such": 1}])
        elif kind in (int, float):
            values += [meta["minimum"] - 1] if meta["minimum"] is not None else []
            values += [meta["maximum"] + 1] if meta["maximum"] is not None else [10**400] if kind is float else []
            values = [value for value in values if not (kind is int and value == 10**400 and meta["maximum"] is None)]
        elif meta["choices"]:
            values.append("no such")
        cases += [pytest.param(path, value, id=f"{path}={value!r:.20}") for value in values]
    return cases


def test_every_bad_value_of_every_setting_is_a_problem_of_that_setting(client: TestClient) -> None:
    cases = [case.values for case in _bad_values()]
    assert len(cases) > 2 * len(SETTINGS)
    for path, value in cases:
        other = "run.seed" if path != "run.seed" else "run.steps"
        found = _resolve(client, {path: value, other: 3})
        named = {problem["setting"].split("[")[0] for problem in found["problems"]}
        assert path in named, (path, value, found["problems"])
        assert found["settings"][other] == 3
        for problem in found["problems"]:
            assert problem["message"].endswith((".", "?", "take 8.")), problem


@pytest.mark.parametrize(
    "path", ["nonsense", "network", "network.", ".dim", "a.b.c", "network.dimm", "", "__class__.x"]
)
def test_an_unknown_setting_is_a_problem(path: str, client: TestClient) -> None:
    assert path in {problem["setting"] for problem in _resolve(client, {path: 1})["problems"]}


def test_a_checkpoint_or_folder_that_is_gone_is_said_at_once(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    values = {
        "base.checkpoint": str(tmp_path / "gone.safetensors"),
        "dataset.folder": str(tmp_path / "pictures"),
        "network.frozen_adapters": [f"{tmp_path / 'gone'}:0.5", "\0"],
        "run.steps": 1,
    }
    found = _resolve(client, values)["problems"]
    expected = {"base.checkpoint", "network.frozen_adapters[0]", "network.frozen_adapters[1]"}
    assert {problem["setting"] for problem in found} == expected
    assert all("not there" in problem["message"] for problem in found)


def test_whether_a_file_is_there_is_not_told_to_strangers(client: TestClient, context: Context) -> None:
    context.public = lambda: True
    values = {"base.checkpoint": "/gone", "dataset.folder": "/gone", "run.steps": 1}
    assert _resolve(client, values)["problems"] == []


def test_presets_are_listed_with_what_they_change(client: TestClient) -> None:
    found = {entry["name"]: entry for entry in client.get("/presets").json()}
    assert set(found) == set(preset_table())
    entry = found["sdxl-lokr-8gb"]
    assert (entry["base"], entry["type"], entry["memory_gb"], entry["own"]) == ("sdxl", "lokr", 8, False)
    for name in (STUDY, "sd15-lora-6gb"):
        tables: dict[str, dict[str, Any]] = {}
        for path, value in found[name]["settings"].items():
            tables.setdefault(path.split(".")[0], {})[path.split(".")[1]] = value
        assert config_file.from_tables(tables, name) == preset(name)


def test_own_presets_are_kept_replaced_and_deleted(client: TestClient, context: Context) -> None:
    for dim in (7, 9):
        answer = client.put("/presets/Mein%20Entwurf", json={"settings": {"network.dim": dim, "base.family": "sdxl"}})
        assert answer.status_code == 200, answer.text
        own = client.get("/presets").json()[0]
        assert own["name"] == "Mein Entwurf" and own["own"] and own["base"] == "sdxl"
        assert own["settings"] == {"base.family": "sdxl", "network.dim": dim}
    assert _resolve(client, {}, preset="Mein Entwurf")["settings"]["network.dim"] == 9
    assert client.delete("/presets/Mein Entwurf").status_code == 200
    assert client.delete("/presets/Mein Entwurf").status_code == 404
    assert not any(entry["own"] for entry in client.get("/presets").json())


@pytest.mark.parametrize("name", ["..", "a\\b", "a:b", ".hidden ", "nul", "x" * 81, "sdxl-lora-8gb", "a\nb", "%00"])
def test_a_preset_gets_no_name_that_is_no_plain_file_name(name: str, client: TestClient, context: Context) -> None:
    answer = client.put("/presets/" + name.replace("\n", "%0A").replace("\\", "%5C"), json={"settings": {}})
    assert answer.status_code in (400, 404, 405), answer.text
    assert not list(context.data_folder.rglob("*.toml"))


def test_a_preset_that_is_not_understood_is_not_saved(client: TestClient, context: Context) -> None:
    answer = client.put("/presets/mine", json={"settings": {"network.dim": "x", "network.algo": 3}})
    assert answer.status_code == 400
    assert {problem["setting"] for problem in answer.json()["problems"]} == {"network.dim", "network.algo"}
    assert not context.data_folder.exists()


def test_a_broken_preset_file_harms_no_other(client: TestClient, context: Context) -> None:
    folder = context.data_folder / "presets"
    folder.mkdir(parents=True)
    (folder / "broken.toml").write_text("[network\n")
    client.put("/presets/whole", json={"settings": {"network.dim": 3}})
    found = {entry["name"]: entry for entry in client.get("/presets").json() if entry["own"]}
    assert "cannot be used" in found["broken"]["about"] and found["whole"]["settings"] == {"network.dim": 3}
    assert client.delete("/presets/broken").status_code == 200


def test_a_full_disk_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    FullDisk(monkeypatch, 10)
    answer = client.put("/presets/mine", json={"settings": {}})
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]
    monkeypatch.setattr(Path, "mkdir", full)
    answer = client.put("/presets/mine", json={"settings": {}})
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]


KOHYA = 'pretrained_model_name_or_path = "/m/x.safetensors"\nnetwork_dim = 8\nmax_train_steps = 100\n'


def _import(client: TestClient, *files: tuple[str, str]) -> Any:
    return client.post("/import", json={"files": [{"name": name, "content": content} for name, content in files]})


def test_kohyas_files_are_imported_together(client: TestClient) -> None:
    dataset = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "/pictures"\nnum_repeats = 3\n'
    training = KOHYA + 'dataset_config = "C:\\\\train\\\\data.toml"\nno_such_option = 3\n'
    found = _import(client, ("config.toml", training), ("data.toml", dataset)).json()
    assert found["settings"]["network.dim"] == 8 and found["settings"]["dataset.folder"] == "/pictures"
    assert any(line.startswith("no_such_option") for line in found["left_out"])


def test_the_guis_json_is_imported(client: TestClient) -> None:
    settings = {"LoRA_type": "LyCORIS/LoKr", "network_dim": 16, "factor": 4, "max_resolution": "768,768", "epoch": 3}
    found = _import(client, ("mine.json", json.dumps({**settings, "weighted_captions": True}))).json()
    assert found["settings"]["network.algo"] == "lokr" and found["settings"]["network.factor"] == 4
    assert (found["settings"]["dataset.resolution"], found["settings"]["run.epochs"]) == (768, 3)
    assert any(line.startswith("weighted_captions") for line in found["left_out"])
    assert any("checkpoint" in line for line in found["missing"]) and len(found["missing"]) >= 2


def test_sample_prompts_come_from_a_file_given_with_the_others_or_from_none(client: TestClient, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("of this machine\n")
    training = KOHYA + f"sample_prompts = {json.dumps(str(prompts))}\n"
    alone = _import(client, ("config.toml", training)).json()
    assert "preview.prompts" not in alone["settings"]
    assert any(line.startswith("sample_prompts") for line in alone["left_out"])
    both = _import(client, ("config.toml", training), ("prompts.txt", "a cat --w 1024\n")).json()
    assert both["settings"]["preview.prompts"] == ["a cat"] and both["settings"]["preview.width"] == 1024


def test_no_file_of_this_machine_is_read_by_an_import(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "/secret"\n')
    answer = _import(client, ("config.toml", KOHYA + f"dataset_config = {json.dumps(str(secret))}\n"))
    assert answer.status_code == 200 and "/secret" not in json.dumps(answer.json()["settings"])
    assert any("was not given" in line for line in answer.json()["left_out"])


def test_a_configuration_of_ours_is_imported_as_it_is(client: TestClient) -> None:
    config = TrainConfig()
    config.network.dim = 12
    found = _import(client, ("config.toml", "\ufeff" + config_file.dumps(config))).json()
    assert found == {"settings": {"network.dim": 12}, "left_out": [], "ignored": [], "missing": []}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.toml", "= 3"), ("a.json", "{"), ("a.json", "[1]"), ("a.toml", ""), ("a.json", "{}"), ("a.json", "[" * 99999)],
)
def test_a_file_that_holds_no_settings_is_refused_by_name(name: str, content: str, client: TestClient) -> None:
    answer = _import(client, (name, content))
    assert answer.status_code == 400 and name in answer.json()["error"]


def test_checkpoints_and_adapters_are_found_in_folders(client: TestClient, context: Context, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "below").mkdir(parents=True)
    for name in ("b.safetensors", "below/A.ckpt", "notes.txt"):
        (models / name).write_bytes(b"x")
    context.checkpoint_folders = [models, tmp_path / "gone"]
    assert [entry["title"] for entry in client.get("/checkpoints").json()] == [
        "b.safetensors",
        os.path.join("below", "A.ckpt"),
    ]
    adapters = context.worker.root / "run" / "adapters"
    adapters.mkdir(parents=True)
    (adapters / "cat.safetensors").write_bytes(b"1234")
    (found,) = client.get("/adapters").json()
    assert (found["name"], found["bytes"], found["path"]) == ("run/adapters/cat", 4, str(adapters / "cat.safetensors"))
