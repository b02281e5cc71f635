"""A broken file costs only itself: whatever is in it, what lies beside it is listed, and it is named.

Every file that is kept beside runs, studies, presets and adapters is damaged in turn: cut, replaced by what is none of
its kind, and with every value in it replaced by one of another type or size.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.library import Library
from adapter_lab.api import Context
from adapter_lab.api.answers import as_json
from adapter_lab.api.call import Call
from adapter_lab.api.catalog import presets
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.study.record.state import Decision, StudyState, TrainingState, save_state
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Study, Variant
from adapter_lab.worker import Worker
from tests.adapters.derived import case_tensors
from tests.support.studies import training_of

DEEP = "[" * 100_000
TEXTS = [
    "",
    "{}",
    "[]",
    "null",
    "0",
    '"x"',
    DEEP,
    '{"a": ' * 20_000,
    "9" * 5000,
    "1e999",
    "NaN",
    "\ufeff{}",
    "=cmd|",
    "\0",
]
VALUES = [None, True, -1, 0, 0.5, 2**40, 2**70, -(2**70), "", "x", "9" * 400, DEEP, [], {}, [[]], [None], {"a": {}}]
RAW = ["1e999", "NaN", "9" * 400, "9" * 5000, DEEP, "{", "1e-999"]
EVENTS: list[dict[str, Any]] = [
    {"event": "started", "time": 1.0, "name": "bad", "algo": "lora", "adapters": "/x", "device": "cpu"},
    {"event": "dataset", "time": 2.0, "report": {"pictures": 3}, "text": "3 images"},
    {"event": "preparing", "time": 2.0, "what": "latents", "done": 1, "total": 3},
    {"event": "training", "time": 3.0, "total_steps": 9, "steps_per_epoch": 3},
    {"event": "step", "time": 4.0, "step": 1, "loss": 0.5, "rates": {"unet": {"lr": 1.0, "d": 0.1}}, "progress": 0.1},
    {"event": "step", "time": 5.0, "step": 2, "loss": 0.5, "seconds_per_step": 0.1, "memory_bytes": 9, "progress": 0.2},
    {"event": "validation", "time": 5.0, "step": 2, "loss": 0.4},
    {"event": "sample", "time": 6.0, "step": 2, "paths": ["/x/000002-0.png"], "prompts": ["a"]},
    {"event": "saved", "time": 6.0, "step": 2, "path": "/x/bad-2.safetensors", "bytes": 1, "removed": ["/x/1"]},
    {"event": "renamed", "time": 6.0, "step": 2, "old": "/x/bad-2.safetensors", "path": "/x/bad.safetensors"},
    {"event": "pictures", "time": 6.0, "step": 2, "pictures": [{"picture": "a.png", "relative_loss": 1.0}], "total": 3},
    {"event": "prompts", "time": 6.0, "step": 2, "prompts": ["b"]},
    {"event": "state", "time": 6.0, "step": 2, "path": "/x/state", "seconds": 1.0},
    {"event": "warning", "time": 6.0, "message": "careful"},
    {"event": "resumed", "time": 7.0, "step": 2},
    {"event": "failed", "time": 8.0, "message": "It went wrong.", "training": "a-s1"},
    {"event": "finished", "time": 9.0, "step": 2, "reason": "all steps are done", "peak_bytes": 5, "adapters": []},
]


def damaged(text: str, rng: random.Random, count: int) -> Iterator[bytes]:
    """A text cut and replaced; where it is JSON, by lines too, `count` of its values replaced."""
    yield from (text.encode()[: len(text) // 2], b"\xff\xfe\x00", text.encode() + b"\xff")
    yield from (junk.encode() for junk in TEXTS)
    lines = text.splitlines() if _is_json(text.splitlines()[0]) else [text]
    if not all(map(_is_json, lines)):
        return
    for _ in range(count):
        index = rng.randrange(len(lines))
        value = json.loads(lines[index])
        parent, key = rng.choice(list(_places(value)))
        parent[key] = rng.choice(VALUES)
        line = json.dumps(value)
        if rng.random() < 0.3:  # what no JSON writer makes
            parent[key] = "MARK"
            line = json.dumps(value).replace('"MARK"', rng.choice(RAW), 1)
        yield "\n".join([*lines[:index], line, *lines[index + 1 :], ""]).encode("utf-8", "replace")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def run_folder(root: Path, name: str) -> RunFolder:
    folder = RunFolder(root / name)
    folder.path.mkdir(parents=True)
    config = TrainConfig()
    config.run.name = name
    config_file.write(config, folder.config, only_changed=True)
    with EventLog(folder.events) as log:
        for event in EVENTS:
            log.write(event["event"], **{key: value for key, value in event.items() if key != "event"})
    folder.process.write_text('{"pid": 999999, "started": 1.0}')
    folder.starting.write_text('{"worker": {"pid": 999999, "started": 1.0}, "child": null, "at": 1.0}')
    return folder


def study_folder(root: Path, name: str) -> Path:
    folder = root / name
    study = Study(variants=[Variant("a", {"network.dim": 4}), Variant("b", {})], scores={"clip": {"model": "x"}})
    study.general.name = name
    folder.mkdir(parents=True)
    study_file.write(study, folder / "study.toml")
    training_of(folder, "a-s1", 3)
    state = StudyState(
        {"a-s1": TrainingState("running", "so", 1, "x")}, {"a": {"file_bytes": 3}}, [Decision("b", 1, 2.0, "worse")]
    )
    save_state(folder / "state.json", state)
    with EventLog(folder / "events.jsonl") as log:
        log.write("started", name=name)
        log.write("dropped", variant="b", message="worse")
    return folder


BROKEN: dict[str, tuple[str, int]] = {
    "bad/events.jsonl": ("runs", 150),
    "bad/config.toml": ("runs", 0),
    "bad/process.json": ("runs", 20),
    "bad/starting.json": ("runs", 20),
    "worse/state.json": ("studies", 80),
    "worse/study.toml": ("studies", 0),
    "worse/events.jsonl": ("studies", 20),
    "worse/runs/a-s1/events.jsonl": ("studies", 30),
    "worse/runs/a-s1/config.toml": ("studies", 0),
    "queue.json": ("queue", 20),
}


def look(worker: Worker) -> dict[str, dict[str, Any]]:
    """All that a page asks for, as the bytes that it would get; details may be refused in words."""
    asked: dict[str, Callable[[], Any]] = {
        "active": lambda: worker.active() and 1,
        "queue": lambda: worker.queue().to_dict(),
        **{f"run {name}": lambda name=name: worker.run(name).to_dict() for name in ("good", "bad")},
        **{f"series {name}": lambda name=name: worker.series(name, 50) for name in ("good", "bad")},
        **{f"study {name}": lambda name=name: worker.study(name).to_dict() for name in ("better", "worse")},
        "diff": lambda: worker.diff("good", "bad"),
    }
    for ask in asked.values():
        try:
            as_json(ask())
        except AdapterLabError as error:
            assert str(error)
    lines = [run.to_dict() for run in worker.runs()] + [study.to_dict() for study in worker.studies()]
    as_json(lines)
    return {line["id"]: line for line in lines}


@pytest.mark.parametrize("name", BROKEN)
def test_runs_and_studies_beside_a_broken_file_are_listed(name: str, context: Context) -> None:
    root = context.worker.root
    run_folder(root, "good"), run_folder(root, "bad"), study_folder(root, "better"), study_folder(root, "worse")
    (root / "queue.json").write_text('{"order": ["good"], "paused": true, "message": ""}')
    path, whole = root / name, look(Worker(root))
    text, kept = path.read_text(), Worker(root)
    # Each is read by a worker that just began, and by one that has read it before.
    for number, content in enumerate(damaged(text, random.Random(name), BROKEN[name][1])):
        path.write_bytes(content)
        found = look(Worker(root) if number % 2 else kept)
        assert set(found) == set(whole), content[:200]
        if BROKEN[name][0] != "queue":
            assert all(found[beside] == whole[beside] for beside in ("good", "better")), content[:200]
    assert "cannot be read" not in str(whole)


def test_a_queue_that_is_broken_is_put_aside_and_goes_on(context: Context) -> None:
    root = context.worker.root
    run_folder(root, "good")
    for content in damaged('{"order": ["good"], "paused": false, "message": ""}', random.Random(1), 10):
        (root / "queue.json").write_bytes(content)
        context.worker.pause(True)
        assert context.worker.queue().paused


def test_presets_beside_a_broken_one_are_listed_and_it_is_named(context: Context) -> None:
    folder = context.data_folder / "presets"
    folder.mkdir(parents=True)
    (folder / "good.toml").write_text("[network]\ndim = 3\n")
    nested = ["[network]\ndim = " + DEEP, "[network]\ndim = " + "9" * 5000, "[network]\nalpha = " + "9" * 400]
    for content in [*damaged("[network]\ndim = 4\n", random.Random(2), 0), *(text.encode() for text in nested)]:
        (folder / "bad.toml").write_bytes(content)
        found = {entry["name"]: entry for entry in presets(context, Call()) if entry["own"]}
        as_json(list(found.values()))
        assert found["good"]["settings"] == {"network.dim": 3} and set(found) == {"good", "bad"}, content[:100]


METADATA = ("ss_training_started_at", "ss_steps", "ss_epoch", "ss_network_args", "ss_dataset_dirs", "training_info")
METADATA += ("lora_adapter_metadata", "adapter_lab.run", "adapter_lab.network", "ss_output_name", "ss_session_id")


def test_adapters_beside_a_broken_one_are_found(tmp_path: Path) -> None:
    save_adapter(tmp_path / "good.safetensors", case_tensors("lora"), {"ss_steps": "3"})
    rng, bad = random.Random(3), tmp_path / "bad.safetensors"
    whole = (tmp_path / "good.safetensors").read_bytes()
    tensors = case_tensors("lora")
    junk = [*TEXTS, *RAW, *(json.dumps(value) for value in VALUES)]
    for entry in METADATA:
        for text in junk:
            save_adapter(bad, tensors, {entry: text.replace("\0", "")})
            assert {found.name for found in Library().scan([tmp_path]).entries} == {"good", "bad"}, (entry, text[:50])
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for content in damaged(json.dumps(header), rng, 100):
        bad.write_bytes(len(content).to_bytes(8, "little") + content + whole[8 + length :])
        assert "good" in {found.name for found in Library().scan([tmp_path]).entries}, content[:200]


def test_what_a_library_remembered_may_be_broken(tmp_path: Path) -> None:
    folder, index = tmp_path / "adapters", tmp_path / "library.json"
    save_adapter(folder / "good.safetensors", case_tensors("lora"), {"ss_steps": "3"})
    before = Library(index).scan([folder]).entries
    text = index.read_text()
    for content in damaged(text, random.Random(4), 100):
        index.write_bytes(content)
        if b"null]" in content:  # remembered as no adapter
            continue
        found = Library(index).scan([folder])
        assert [entry.path for entry in found.entries] == [before[0].path]
        assert found.runs[0].name and found.labels
    shutil.rmtree(folder)
