"""Studies over HTTP: what they will come to, what is wrong with them, starting, watching, and their report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_lab.api import Context, studies
from adapter_lab.hosts import start
from adapter_lab.worker import Worker
from tests.support.studies import training_of
from tests.support.training import draw_pictures, tiny_base
from tests.worker.conftest import PATIENCE, quick, wait_for

__all__ = ["quick"]
LORA = {"name": "LoRA", "settings": {"network.dim": 4, "network.alpha": 4}}
LOKR = {"name": "LoKr f2", "settings": {"network.algo": "lokr", "network.factor": 2}}
Values = dict[str, Any]


@pytest.fixture
def study(tmp_path: Path) -> Values:
    """A request for a study that can be run: six steps of two variants on a tiny base."""
    return {
        "name": "heroes",
        "variants": [LORA, LOKR],
        "budget": {"unit": "steps", "amount": 6, "points": 3},
        "settings": {
            "base.checkpoint": str(tiny_base("sd15")),
            "dataset.folder": str(draw_pictures(tmp_path / "pictures", 3)),
            "network.feed_forward": False,
            "network.projections": False,
            "precision.device": "cpu",
            "precision.gradient_checkpointing": False,
            "optimizer.name": "adamw",
            "optimizer.lr": 0.01,
            "preview.prompts": [],
        },
    }


@pytest.fixture
def quickly(context: Context, quick: Path) -> Iterator[Worker]:
    """A worker whose trainings only pretend."""
    context.worker = Worker(context.worker.root, python=quick)
    yield context.worker
    for entry in context.worker.studies():
        if entry.state in ("starting", "running", "stopping"):
            context.worker.stop(entry.id, "now")
    context.worker.close()


def changed(study: Values, **values: Any) -> Values:
    """The request with other values; those of settings by `settings__dataset_folder`."""
    made = {**study, "settings": dict(study["settings"])}
    for name, value in values.items():
        if name.startswith("settings__"):
            made["settings"][name.removeprefix("settings__").replace("_", ".", 1)] = value
        else:
            made[name] = value
    return made


def refused(client: TestClient, asked: Values, status: int = 400) -> str:
    """What is said to a study that neither is planned nor starts."""
    answers = [client.post(path, json=asked) for path in ("/studies/plan", "/studies")]
    assert [answer.status_code for answer in answers] == [status, status], [answer.text for answer in answers]
    assert answers[0].json() == answers[1].json()
    assert client.get("/studies").json() == []
    return str(answers[0].json()["error"])


# Variants


def test_presets_are_tables_of_variants(client: TestClient) -> None:
    found = {entry["name"]: entry for entry in client.get("/variants").json()}
    assert len(found["eleven"]["variants"]) == 11
    assert found["eleven"]["variants"][0] == {
        "name": "LoRA",
        "settings": {
            "network.algo": "lora",
            "network.dim": 32,
            "network.alpha": 16.0,
            "network.train_te": False,
        },
    }
    assert all(entry["title"] and entry["about"] for entry in found.values())


def test_variants_as_a_product(client: TestClient) -> None:
    asked = {"algorithms": ["lora", "lokr"], "dims": [8, 16], "text_encoders": "both"}
    names = [variant["name"] for variant in client.post("/variants", json=asked).json()["variants"]]
    assert names == ["lora 8", "lora 16", "lora 8+TE", "lora 16+TE", "lokr 8", "lokr 16", "lokr 8+TE", "lokr 16+TE"]
    unknown = client.post("/variants", json={"algorithms": ["lorra"]})
    assert unknown.status_code == 400 and "'lorra' is no algorithm" in unknown.json()["error"]
    assert "dims" in client.post("/variants", json={"algorithms": ["lora"], "dims": [0]}).json()["error"]


# The plan


def test_a_plan_has_sizes_steps_and_what_will_not_fit(
    client: TestClient, study: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "device", lambda: {"name": "small", "total_bytes": 1000, "free_bytes": 10})
    asked = changed(study, settings__run_seed=7)
    found = client.post("/studies/plan", json={**asked, "memory": True}).json()
    assert [entry["variant"] for entry in found["variants"]] == ["LoRA", "LoKr f2"]
    assert all(entry["file_bytes"] > 1000 and entry["steps"] == 6 for entry in found["variants"])
    assert all(entry["fits"] is False and entry["peak_bytes"] > 920 for entry in found["variants"])
    assert (found["trainings"], found["files"], found["memory_bytes"]) == (2, 6, 920)
    assert len(found["remarks"]) == 1 and "run.seed is decided by the study" in found["remarks"][0]
    assert client.get("/studies").json() == []


def test_what_only_the_base_can_tell_is_wrong_is_said_by_variant(client: TestClient, study: Values) -> None:
    budget = {**study["budget"], "parameters": 3}
    answer = client.post("/studies/plan", json=changed(study, budget=budget))
    assert answer.status_code == 400 and "Variant LoRA: its nearest size" in answer.json()["error"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"variants": []}, "A study needs variants"),
        ({"variants": [{"name": "a", "settings": {"network.algo": "lorra"}}]}, "lorra"),
        ({"variants": [{"name": "a", "settings": {"network.colour": 1}}]}, "network.colour"),
        ({"variants": [{"name": "a", "settings": {"dim": 1}}]}, "dim"),
        ({"variants": [{"name": "a", "settings": {"network.dim": "many"}}]}, "network.dim"),
        ({"variants": [{"name": "a", "settings": {"network.alpha": 10**400}}]}, "between -2^63 and 2^63"),
        ({"variants": [{"name": " ", "settings": {}}]}, "no name"),
        ({"variants": [LORA, {**LORA, "settings": {}}]}, "the same name"),
        ({"variants": [LORA, {"name": "a", "settings": {"network.factor": 4}}]}, "Variant a: network.factor"),
        ({"variants": [{"name": "a", "settings": {"run.steps": 4}}]}, "the study decides"),
        ({"variants": [{"name": "a", "settings": {"dataset.folder": "x"}}]}, "must be the same for all"),
        ({"budget": {"unit": "hours"}}, "hours"),
        ({"budget": {"unit": "steps", "amount": 0}}, "nothing would be trained"),
        ({"budget": {"unit": "steps", "amount": 7, "points": 3}}, "take 6"),
        ({"budget": {"colour": 7}}, "colour"),
        ({"race": {"enabled": True}}, "validation_fraction"),
        ({"seeds": []}, "study.seeds"),
        ({"seeds": [1, 1]}, "study.seeds"),
        ({"scores": {"clip": 3}}, "clip"),
        ({"scores": {"clap": {"model": "x"}}}, "There is no scorer 'clap'"),
        ({"scores": {"pictures": {"prompts": 3}}}, "scores.pictures.prompts"),
        ({"name": "../else"}, "study.name is '../else'"),
        ({"name": " "}, "study.name"),
        ({"settings__dataset_folder": ""}, "dataset.folder"),
        ({"settings__dataset_folder": "gone"}, "dataset.folder is gone, which is not there"),
        ({"settings__base_checkpoint": "gone"}, "base.checkpoint is gone, which is not there"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    values: Values, said: str, client: TestClient, study: Values
) -> None:
    assert said in refused(client, changed(study, **values))


def test_paths_stay_in_the_allowed_folders_where_others_reach_the_server(
    client: TestClient, context: Context, study: Values, tmp_path: Path
) -> None:
    context.public = lambda: True
    assert "lies outside" in refused(client, study, 403)
    context.folders = lambda: [tmp_path, tiny_base("sd15").parent]
    elsewhere = [{"name": "a", "settings": {"network.start_from": "/etc/passwd"}}]
    assert "/etc/passwd lies outside" in refused(client, changed(study, variants=elsewhere), 403)


def test_the_scorers_named_are_those_there_are() -> None:
    from adapter_lab.study.running.scoring import SCORERS
    from adapter_lab.study.scores import settings

    assert {*SCORERS, "toy"} == set(settings.SCORERS)


# Starting and steering


def test_two_starts_at_once_are_one_study(client: TestClient, quickly: Worker, study: Values) -> None:
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: client.post("/studies", json={**study, "when": "now"}), range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    (sentence,) = [answer.json()["error"] for answer in answers if answer.status_code == 400]
    assert "heroes" in sentence
    (found,) = client.get("/studies").json()
    assert found["id"] == "heroes" and found["state"] in ("starting", "running")
    # One at a time on a device, and nothing is left of what could not start.
    other = client.post("/studies", json={**study, "name": "others", "when": "now"})
    assert other.status_code == 400 and "heroes is training right now" in other.json()["error"]
    assert not (quickly.root / "others").exists()


def test_a_study_waits_in_the_queue_and_leaves_it(client: TestClient, quickly: Worker, study: Values) -> None:
    assert client.post("/studies", json=study).json()["id"] == "heroes"
    assert client.get("/queue").json()["order"] == ["heroes"]
    assert client.get("/studies/heroes").json()["state"] == "queued"
    assert client.delete("/queue/heroes").json()["order"] == []
    assert client.get("/studies/heroes").json()["message"] == "It was never started."
    assert client.post("/studies/heroes/resume", json={"when": "now"}).status_code == 200
    wait_for(lambda: client.get("/studies/heroes").json()["state"] == "running")
    assert client.get("/status").json()["active"] == "heroes"
    assert client.post("/studies/heroes/stop").status_code == 200
    wait_for(lambda: client.get("/studies/heroes").json()["state"] == "stopped")
    wait_for(lambda: quickly.active() is None)
    again = client.post("/studies/heroes/stop")
    assert again.status_code == 400 and "does not train any more" in again.json()["error"]


def test_a_study_is_no_run_and_a_run_no_study(
    client: TestClient, quickly: Worker, study: Values, make_run: Callable[..., Any]
) -> None:
    make_run("cat")
    client.post("/studies", json=study)
    assert [run["id"] for run in client.get("/runs").json()] == ["cat"]
    for path in ("/runs/heroes", "/runs/heroes/series", "/studies/cat", "/studies/cat/report", "/studies/nobody"):
        assert client.get(path).status_code == 404, path
    assert client.delete("/runs/heroes").status_code == 404 and (quickly.root / "heroes").is_dir()
    for step in ("stop", "resume", "open-folder"):
        assert client.post(f"/studies/cat/{step}").status_code == 404


def test_adapters_go_to_the_web_uis_folder_and_replace_none(
    client: TestClient, quickly: Worker, context: Context, study: Values, tmp_path: Path
) -> None:
    context.own_adapter_folders = [tmp_path / "Lora"]
    (tmp_path / "Lora" / "heroes").mkdir(parents=True)
    taken = tmp_path / "Lora" / "heroes" / "heroes-LoRA-s1.safetensors"
    taken.write_bytes(b"x")
    answer = client.post("/studies", json=study)
    assert answer.status_code == 400 and "already holds adapter files" in answer.json()["error"]
    taken.unlink()
    assert client.post("/studies", json=study).status_code == 200
    assert str(tmp_path / "Lora" / "heroes") in (quickly.root / "heroes" / "study.toml").read_text()


def test_a_folder_that_vanished_is_said_at_the_resume(
    client: TestClient, quickly: Worker, study: Values, tmp_path: Path
) -> None:
    client.post("/studies", json=study)
    client.delete("/queue/heroes")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    answer = client.post("/studies/heroes/resume")
    assert answer.status_code == 400 and "pictures, which is not there" in answer.json()["error"]
    assert client.get("/queue").json()["order"] == []


# What it has come to


def test_the_trainings_of_a_study_become_a_plot(
    client: TestClient, quickly: Worker, context: Context, study: Values, tmp_path: Path, monkeypatch: Any
) -> None:
    client.post("/studies", json=changed(study, settings__preview_prompts=["a cat", "a dog"]))
    assert "There is no X/Y/Z plot here" in client.get("/studies/heroes/plot").json()["error"]
    context.host = SimpleNamespace(adapter_folder=list)  # type: ignore[assignment]
    monkeypatch.setattr(start, "axes", lambda: SimpleNamespace(title=lambda: "X/Y/Z Plot"))
    nothing = client.get("/studies/heroes/plot")
    assert nothing.status_code == 403 and "has not saved an adapter yet" in nothing.json()["error"]
    for name in ("LoRA-s1", "LoKr-f2-s1"):
        training_of(quickly.root / "heroes", name, 4, {2: tmp_path, 4: tmp_path})
    found = client.get("/studies/heroes/plot").json()
    assert found["axes"] == [
        ["[Adapter Lab] Step", ["50%", "100%"]],
        ["[Adapter Lab] Type", ["none", "heroes-LoRA-s1", "heroes-LoKr-f2-s1"]],
        ["Prompt S/R", ["a cat", "a dog"]],
    ]
    assert found["infotext"].startswith("a cat\nSeed: 1, Script: X/Y/Z Plot, ")


def test_what_the_race_dropped_and_what_failed_is_said_with_its_reason(
    client: TestClient, quickly: Worker, study: Values, tmp_path: Path
) -> None:
    client.post("/studies", json=study)
    client.delete("/queue/heroes")
    training_of(quickly.root / "heroes", "LoRA-s1", 4, {2: tmp_path, 4: tmp_path})
    runs = {
        "LoRA-s1": {"state": "dropped", "why": "Dropped at checkpoint 2: behind.", "attempts": 1},
        "LoKr-f2-s1": {"state": "failed", "why": "Memory ran out.", "attempts": 1},
    }
    decision = {"variant": "LoRA", "point": 2, "time": 1700000000.0, "why": "behind"}
    content = {"format": 1, "runs": runs, "predicted": {}, "decisions": [decision], "decided": 2, "finished": True}
    (quickly.root / "heroes" / "state.json").write_text(json.dumps(content))
    found = client.get("/studies/heroes").json()
    assert found["decisions"] == [decision] and (found["ended"], found["failed"]) == (2, 1)
    assert [(row["state"], row["why"]) for row in found["rows"]] == [
        ("dropped", "Dropped at checkpoint 2: behind."),
        ("failed", "Memory ran out."),
    ]
    assert found["rows"][0]["point"] == 2 and found["rows"][0]["loss"] == 0.5


def test_a_study_trains_is_edited_meanwhile_and_reports(client: TestClient, context: Context, study: Values) -> None:
    """The whole way for real: in processes of its own, until the report."""
    asked = changed(study, budget={"unit": "steps", "amount": 2, "points": 1})
    assert client.post("/studies", json={**asked, "when": "now"}).json() == {"id": "heroes", "remarks": []}
    plan = context.worker.root / "heroes" / "study.toml"

    def look(*states: str) -> Any:
        found = client.get("/studies/heroes").json()
        assert found["state"] != "failed", found["message"]
        return found if found["state"] in states else None

    wait_for(lambda: (plan.parent / "plan.toml").exists() or look("nothing"))
    plan.write_text(plan.read_text() + "\nthis is no TOML")
    found = wait_for(lambda: look("finished"), 2 * PATIENCE)
    assert any("was changed while the study runs" in note["message"] for note in found["notes"])
    assert [(row["state"], row["point"], row["step"]) for row in found["rows"]] == [("done", 1, 2), ("done", 1, 2)]
    assert found["progress"] == 1 and found["files"] == 2
    wait_for(lambda: context.worker.active() is None)
    refused = client.post("/studies/heroes/resume")
    assert refused.status_code == 400 and "study.toml" in refused.json()["error"]
    page = client.get("/studies/heroes/report")
    assert page.headers["content-type"].startswith("text/html") and "LoKr f2" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    written = (plan.parent / "report.csv").stat().st_mtime_ns
    table = client.get("/studies/heroes/report", params={"form": "csv"})
    assert (plan.parent / "report.csv").stat().st_mtime_ns == written  # with the page, and nothing is new
    assert "heroes.csv" in table.headers["content-disposition"] and "LoRA" in table.text
    advice = client.get("/studies/heroes/recommendation").json()
    assert advice["headline"].startswith("Nothing can be recommended: only training losses") and not advice["variant"]
    assert advice["adapter"] is None
