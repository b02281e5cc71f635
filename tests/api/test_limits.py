"""Requests of any size are answered soon, and what only looks waits for no job."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from adapter_lab import config_file, jsonio
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.api import Context
from adapter_lab.api.call import body_of
from adapter_lab.api.errors import BadRequest
from adapter_lab.api.own_presets import OwnPresets
from adapter_lab.api.threads import THREADS
from adapter_lab.config import ALGORITHMS, TrainConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.kohya.reading import tables_of
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import MOST_TRAININGS, MOST_VARIANTS, Study, Variant

SOON = 2.0  # seconds of the processor, which other programs on this machine do not lengthen
STUDY: dict[str, Any] = {"name": "s", "settings": {}, "budget": {"unit": "steps", "amount": 8}}


def variants(count: int, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [{"name": f"v{number}", "settings": settings or {}} for number in range(count)]


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "products": ("/variants", {"algorithms": ["lora"] * 1000, "dims": [16] * 1000, "text_encoders": "both"}),
    "dims": ("/variants", {"algorithms": ["lora"], "dims": [10**400]}),
    "every algorithm": ("/variants", {"algorithms": list(ALGORITHMS), "dims": list(range(1, 30))}),
    "seeds": ("/studies", {**STUDY, "variants": [{"name": "a", "settings": {}}], "seeds": list(range(300_000))}),
    "trainings": ("/studies", {**STUDY, "variants": variants(200), "seeds": [1, 2, 3, 4, 5, 6]}),
    "variants": ("/studies", {**STUDY, "variants": variants(20_000)}),
    "settings of a variant": ("/studies", {**STUDY, "variants": variants(1, {f"x.{n}": 1 for n in range(50_000)})}),
    "settings": ("/runs", {"settings": {f"network.x{n}": 1 for n in range(100_000)}}),
    "rules": ("/config/resolve", {"settings": {"network.rules": [{"match": "*"}] * 100_000}}),
    "a long name": ("/config/resolve", {"settings": {"x" * 4_000_000: 1}}),
    "a long text": ("/config/resolve", {"settings": {"dataset.trigger": "x" * 4_000_000}}),
    "a long choice": ("/config/resolve", {"settings": {"network.algo": "x" * 4_000_000}}),
}  # fmt: skip


@pytest.mark.parametrize("what", SIZES)
def test_a_request_of_any_size_is_answered_soon(what: str, client: TestClient, context: Context) -> None:
    route, body = SIZES[what]
    begun = time.process_time()
    answer = client.post(route, json=body)
    assert time.process_time() - begun < SOON
    said = answer.json()
    assert answer.status_code == 400 or said["problems"], answer.text[:500]
    assert len(answer.text) < 20_000
    assert client.get("/studies").json() == [] and client.get("/runs").json() == []


def test_a_study_as_large_as_may_be_is_answered_soon(client: TestClient, tmp_path: Path) -> None:
    body = {
        **STUDY,
        "variants": variants(MOST_VARIANTS, {"network.dim": 8}),
        "seeds": list(range(MOST_TRAININGS // MOST_VARIANTS)),
    }
    begun = time.process_time()
    answer = client.post("/studies", json=body)
    assert time.process_time() - begun < 2 * SOON
    assert answer.status_code == 400 and "dataset.folder" in answer.json()["error"]  # the only thing that is wrong


def test_a_larger_one_on_the_disk_is_listed_with_what_is_wrong(client: TestClient, context: Context) -> None:
    folder = context.worker.root / "huge"
    folder.mkdir()
    study = Study(variants=[Variant(f"v{number}") for number in range(201)])
    study.general.seeds = list(range(1000))
    study_file.write(study, folder / "study.toml")
    (found,) = client.get("/studies").json()
    assert found["id"] == "huge" and "at most 200 variants and 1000 trainings" in found["message"]
    begun = time.process_time()
    client.get("/studies")
    assert time.process_time() - begun < SOON


def test_looking_waits_for_no_job(server: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    release, waiting = threading.Event(), threading.Semaphore(0)

    def job(*_: Any) -> Any:
        waiting.release()
        release.wait(60)
        return {}

    monkeypatch.setattr(context.worker, "external", job)
    headers = {"X-Adapter-Lab": "1"}

    def estimate(number: int) -> None:
        with httpx.Client(timeout=120) as own:
            settings = {"run.seed": number, "base.family": "sdxl"}
            own.post(f"{server}/estimate", json={"settings": settings}, headers=headers)

    asking = [threading.Thread(target=estimate, args=(number,), daemon=True) for number in range(60)]
    try:
        for thread in asking:
            thread.start()
        for _ in range(THREADS[True]):
            assert waiting.acquire(timeout=60)
        for path in ("/status", "/runs", "/studies", "/queue", "/presets", "/schema"):
            assert httpx.get(f"{server}{path}", timeout=20).status_code == 200, path
        assert not waiting.acquire(blocking=False)  # no more jobs than that at once
    finally:
        release.set()
    for thread in asking:
        thread.join(60)


@pytest.mark.parametrize(
    "host", ["[::1", "[::1]", "[", "localhost:x", "a" * 5000, "", "\u00e9".encode("latin-1").decode("latin-1")]
)
def test_a_host_of_any_kind_is_let_in_or_refused(host: str, client: TestClient) -> None:
    answer = client.get("/queue", headers={"Host": host.encode("latin-1")})
    assert answer.status_code in (200, 403), answer.text
    answer = client.post("/queue", headers={"Origin": f"http://{host}".encode("latin-1")})
    assert answer.status_code in (403, 405), answer.text


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "9" * 400, "9" * 5000, "null", '""', "[]", "{}", "true"])
def test_numbers_that_are_none_are_refused_by_name(value: str, client: TestClient) -> None:
    for route, name in (("/config/resolve", "optimizer.lr"), ("/config/resolve", "run.steps"), ("/runs", "run.seed")):
        answer = client.post(route, content=f'{{"settings": {{"{name}": {value}}}}}')
        said = answer.json()
        assert answer.status_code in (200, 400), answer.text
        assert name in answer.text or "not JSON" in said["error"], answer.text
    answer = client.post("/files/resize", content=f'{{"adapter": "a", "out": "b", "error": {value}}}')
    assert answer.status_code in (400, 404), answer.text


HOSTILE = {
    "digits": ('{"x": ' + "9" * 5000 + "}", "a number has 5,000 digits"),
    "nesting": ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "it is nested too deeply"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_numbers_and_nesting_beyond_reading_have_a_sentence_of_ours_everywhere(kind: str, tmp_path: Path) -> None:
    text, sentence = HOSTILE[kind]
    with pytest.raises(BadRequest, match=f"The body is not JSON: {sentence}"):
        body_of(text.encode())
    with pytest.raises(ValueError, match=sentence):
        jsonio.parsed(text)
    with pytest.raises(ConfigError, match=sentence):
        tables_of(text, "settings.json")
    header = text.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FileFormatError, match=sentence):
        TensorFile.open(tmp_path / "a.safetensors")
    toml = text.replace('{"x": ', "x = ").removesuffix("}")
    said = "a number has thousands of digits" if kind == "digits" else sentence
    with pytest.raises(ConfigError, match=said):
        config_file.parse_toml(toml)


def test_a_preset_that_cannot_be_trained_is_not_saved(tmp_path: Path) -> None:
    config = TrainConfig()
    config.network.dim = -5
    with pytest.raises(ConfigError, match=r"network\.dim is -5"):
        OwnPresets(tmp_path).save("mine", config)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadRequest):
        OwnPresets(tmp_path).save("con.x", TrainConfig())
