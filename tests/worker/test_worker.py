"""The worker with real training processes on a tiny base."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.errors import AdapterLabError
from adapter_lab.worker import JobCancelled
from tests.support.training import tiny_config
from tests.worker.conftest import wait_for, wait_state


def test_a_run_is_steered_while_it_trains_stopped_and_resumed(make_worker, tmp_path):
    worker = make_worker()
    config = tiny_config(tmp_path, run__steps=100_000, run__name="hero", preview__steps=1, preview__baseline=False)
    config.preview.prompts = ["first"]
    run = worker.submit(config, "now")
    wait_for(lambda: worker.summary(run).step >= 2)
    summary = worker.summary(run)
    assert (summary.state, summary.total_steps, summary.name, summary.algo) == ("running", 100_000, "hero", "lora")
    assert summary.eta_seconds and summary.seconds_per_step and summary.memory_bytes and summary.loss
    worker.save(run)
    saved = wait_for(lambda: worker.summary(run).adapters)
    assert Path(saved[0]["path"]).stat().st_size == saved[0]["bytes"]
    assert worker.summary(run).tag == f"<lora:{Path(saved[0]['path']).stem}:1>"
    worker.set_prompts(run, ["second", "third"])
    wait_for(lambda: worker.run(run).prompts == ["second", "third"])
    worker.sample(run)
    samples = wait_for(lambda: worker.run(run).samples)
    assert [entry["prompt"] for entry in samples] == ["second", "third"]
    assert (worker.root / run / "samples" / samples[0]["file"]).is_file()
    detail = worker.run(run)
    assert {entry["caption"] for entry in detail.pictures} == {f"sks, thing {i}, red" for i in range(4)}
    assert all(Path(entry["path"]).is_file() for entry in detail.pictures)
    assert detail.thumbnail == samples[0]["file"] and detail.report and detail.log
    worker.stop(run)
    stopped = wait_state(worker, run, "stopped")
    drawn = worker.series(run)
    assert drawn["steps"] == list(range(1, stopped.step + 1))
    worker.resume(run, {"run.steps": stopped.step + 2}, "now")
    finished = wait_state(worker, run, "finished", "failed", "killed")
    assert (finished.state, finished.step) == ("finished", stopped.step + 2)
    assert config_file.load(worker.root / run / "config.toml").preview.prompts == ["second", "third"]
    with pytest.raises(AdapterLabError, match="another run"):
        worker.resume(run, {"network.dim": 8})
    worker.delete(run)
    assert worker.runs() == []
    assert (worker.root / run / "adapters" / "hero.safetensors").exists()


def test_a_trainer_killed_by_the_system_is_resumed_from_its_last_state(make_worker, tmp_path):
    worker = make_worker()
    config = tiny_config(tmp_path, run__steps=100_000, save__state_every_steps=1)
    run = worker.submit(config, "now")
    wait_for(lambda: worker.summary(run).step >= 2)
    os.kill(json.loads((worker.root / run / "process.json").read_text())["pid"], signal.SIGKILL)
    killed = wait_state(worker, run, "killed")
    assert "where its last state was saved" in killed.message
    worker.resume(run, {"run.steps": killed.step + 1}, "now")
    finished = wait_state(worker, run, "finished", "failed", "killed")
    assert (finished.state, finished.step) == ("finished", killed.step + 1)
    worker.delete(run, adapters=True)
    assert not (worker.root / run).exists()


def test_a_checkpoint_that_is_gone_is_said_in_a_sentence(make_worker, tmp_path):
    worker = make_worker()
    config = tiny_config(tmp_path)
    copy = tmp_path / "base.safetensors"
    copy.write_bytes(Path(config.base.checkpoint).read_bytes())
    config.base.checkpoint = str(copy)
    run = worker.submit(config)
    copy.unlink()
    worker.advance()
    failed = wait_state(worker, run, "failed", "killed", "finished")
    assert failed.state == "failed" and "base.safetensors" in failed.message


def test_jobs_give_their_result_their_sentence_or_give_way_to_a_newer_one(make_worker, tmp_path):
    import threading

    worker = make_worker()
    folder = tiny_config(tmp_path).dataset.folder
    report = ["report", "--folder", folder, "--resolution", "64"]
    outcome = []

    def older() -> None:
        try:
            outcome.append(worker.external("report", report))
        except JobCancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=older)
    thread.start()
    wait_for(lambda: worker._jobs._running)
    assert isinstance(worker.external("report", report), dict)
    thread.join()
    assert isinstance(outcome[0], JobCancelled)
    with pytest.raises(AdapterLabError, match="nowhere"):
        worker.external("report", ["report", "--folder", str(tmp_path / "nowhere"), "--resolution", "64"])
