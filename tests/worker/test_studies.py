"""Studies in the worker: listed beside runs, started, stopped, resumed, and one at a time with runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import EventLog
from adapter_lab.study.spec.definition import Budget, General, Study, Variant, run_name
from adapter_lab.worker import StudyDetail, Worker
from tests.support.studies import training_of
from tests.worker.conftest import wait_for


@pytest.fixture
def study() -> Study:
    variants = [Variant("LoRA"), Variant("LoKr f4", {"network.algo": "lokr", "network.factor": 4})]
    return Study(General("heroes", [1]), Budget("steps", 6.0, 3), variants=variants)


def wait_study(worker: Worker, study_id: str, *states: str) -> StudyDetail:
    """The study once it is in one of `states`."""
    return wait_for(lambda: found if (found := worker.study(study_id)).state in states else None)


def noted(worker: Worker, **states: str) -> None:
    """Write what a study notes of its trainings."""
    runs = {name.replace("_", "-"): {"state": state, "why": "", "attempts": 1} for name, state in states.items()}
    content = {"format": 1, "runs": runs, "predicted": {}, "decisions": [], "decided": 0, "finished": False}
    (worker.root / "heroes" / "state.json").write_text(json.dumps(content))


def test_a_study_runs_beside_no_run_and_is_no_run_itself(
    quick: Path, make_worker: Callable[..., Worker], study: Study, config: TrainConfig
) -> None:
    worker = make_worker(python=quick)
    assert worker.submit_study(study, "now") == "heroes"
    assert worker.runs() == [] and [entry.id for entry in worker.studies()] == ["heroes"]
    active = worker.active()
    assert active is not None and active.name == "heroes"
    with pytest.raises(AdapterLabError, match="heroes is training right now"):
        worker.submit(config, "now")
    with pytest.raises(AdapterLabError, match="already has something called heroes"):
        worker.submit_study(study, "queue")
    assert worker.queue().active == ["heroes"]
    worker.stop("heroes", "save")
    stopped = wait_study(worker, "heroes", "stopped")
    assert stopped.message == "Stopped on request, after saving."
    wait_for(lambda: worker.active() is None)
    worker.resume("heroes", when="now")
    wait_study(worker, "heroes", "running")
    worker.stop("heroes", "now")
    assert "what its trainings saved" in wait_study(worker, "heroes", "stopped").message


def test_studies_and_runs_wait_in_one_queue(
    quick: Path, make_worker: Callable[..., Worker], study: Study, config: TrainConfig
) -> None:
    config.run.steps = 50
    worker = make_worker(python=quick)
    run = worker.submit(config, "queue")
    worker.submit_study(study, "queue")
    assert worker.queue().order == [run, "heroes"] and worker.study("heroes").state == "queued"
    assert worker.advance() == run
    assert worker.advance() == "" and worker.queue().order == ["heroes"]
    wait_for(lambda: worker.summary(run).state == "finished" and worker.active() is None)
    assert worker.advance() == "heroes"
    worker.stop("heroes", "now")


def test_a_study_is_read_as_far_as_it_is(make_worker: Callable[..., Worker], study: Study) -> None:
    worker = make_worker()
    worker.submit_study(study, "queue")
    worker.remove("heroes")
    assert worker.study("heroes").message == "It was never started."
    training_of(worker.root / "heroes", run_name(study.variants[0], 1), 6)
    training_of(worker.root / "heroes", run_name(study.variants[1], 1), 3)
    noted(worker, LoRA_s1="done", LoKr_f4_s1="running")
    found = worker.study("heroes")
    assert (found.trainings, found.ended, found.progress) == (2, 1, pytest.approx(0.75))
    lora, lokr = found.rows
    assert (lora["state"], lora["point"], lora["step"], lora["minutes"]) == ("done", 3, 6, pytest.approx(0.2))
    # Noted as running, but nothing lives.
    assert (lokr["state"], lokr["point"], lokr["loss"]) == ("killed", 1, 0.5)
    trained_more = worker.root / "heroes" / "runs" / "LoKr-f4-s1" / "events.jsonl"
    with EventLog(trained_more) as log:
        log.write("step", step=4, loss=0.1, seconds_per_step=8.0, progress=4 / 6)
    lokr = worker.study("heroes").rows[1]
    assert (lokr["point"], lokr["minutes"]) == (2, pytest.approx(14 / 60))
    assert lokr["seconds_per_step"] == pytest.approx(14 / 4)  # of all its steps, as `minutes` is


def test_a_failed_training_is_not_the_end_of_its_study(make_worker: Callable[..., Worker], study: Study) -> None:
    worker = make_worker()
    worker.submit_study(study, "queue")
    worker.remove("heroes")
    with EventLog(worker.root / "heroes" / "events.jsonl") as log:
        log.write("started", folder="heroes", trainings=[])
        log.write("failed", training="LoRA-s1", message="Memory ran out.")
    assert [note["message"] for note in worker.study("heroes").notes] == ["LoRA-s1 failed: Memory ran out."]
    assert worker.study("heroes").state == "killed"
    with EventLog(worker.root / "heroes" / "events.jsonl") as log:
        log.write("failed", message="The folder is gone.")
    assert (worker.study("heroes").state, worker.study("heroes").message) == ("failed", "The folder is gone.")


@pytest.mark.parametrize("broken", ["study.toml", "state.json"])
def test_a_study_that_cannot_be_read_is_listed_with_the_reason(
    broken: str, make_worker: Callable[..., Worker], study: Study
) -> None:
    worker = make_worker()
    worker.submit_study(study, "queue")
    (worker.root / "heroes" / broken).write_text("{")
    (found,) = worker.studies()
    assert found.id == "heroes" and broken in found.message


def test_many_trainings_are_read_again_only_where_they_grew(make_worker: Callable[..., Worker], study: Study) -> None:
    study.general.seeds = list(range(10))
    worker = make_worker()
    worker.submit_study(study, "queue")
    for variant in study.variants:
        for seed in study.general.seeds:
            training_of(worker.root / "heroes", run_name(variant, seed), 500)
    worker.studies()
    begun = time.perf_counter()
    for _ in range(5):
        worker.studies()
    assert (time.perf_counter() - begun) / 5 < 0.5
