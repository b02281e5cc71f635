"""A training can pause at a saving point, and ends when the process that started it is gone."""

from __future__ import annotations

import subprocess
import sys

import psutil

from adapter_lab import config_file
from adapter_lab.study.record.trainings import TrainingRecord
from adapter_lab.training.interrupt import PARENT, StopRequests
from adapter_lab.training.loop import resume, train
from tests.support.training import events_of, losses_of, tiny_config


def test_a_run_paused_at_every_saving_point_is_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    config = tiny_config(tmp_path, run__steps=6, save__every_steps=2)
    whole = train(config, tmp_path / "whole" / "run")
    paused = resume_fresh(config, tmp_path / "paused" / "run", until_point=1)
    assert (paused.steps, paused.reason) == (2, "saving point 1 reached")
    assert [path.name for path in paused.adapters] == ["adapter-000002.safetensors"]
    assert resume(paused.run_folder, until_point=2).steps == 4
    done = resume(paused.run_folder, until_point=3)
    assert (done.steps, done.reason) == (6, "all 6 steps done")
    assert losses_of(done.run_folder) == losses_of(whole.run_folder)
    assert [path.read_bytes() for path in done.adapters] == [path.read_bytes() for path in whole.adapters]


def test_saving_points_by_minutes_pause_too_and_tell_their_training_time(tmp_path):
    config = tiny_config(tmp_path, run__steps=0, run__minutes=10.0, save__every_minutes=0.01)
    paused = resume_fresh(config, tmp_path / "run", until_point=2)
    states = events_of(paused.run_folder, "state")
    assert paused.reason == "saving point 2 reached"
    assert [int(event["seconds"] // 0.6) for event in states] == [1, 2]
    assert states[-1]["step"] == paused.steps


def resume_fresh(config, folder, until_point):
    folder.mkdir(parents=True)
    config_file.write(config, folder / "config.toml")
    return resume(folder, until_point=until_point)


def test_the_end_of_the_starting_process_is_a_request_to_stop(tmp_path, monkeypatch):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(PARENT, f"{parent.pid}:{psutil.Process(parent.pid).create_time()}")
    with StopRequests(tmp_path) as requests:
        assert requests.reason() == ""
        parent.kill()
        parent.wait()
        requests._next_look = 0.0
        assert "has ended" in requests.reason()


def test_a_last_step_that_passes_several_saving_points_is_at_the_last(tmp_path):
    config = tiny_config(tmp_path, run__steps=0, run__minutes=2e-6, save__every_minutes=1e-6)
    run = train(config, tmp_path / "run")
    assert run.seconds > 3 * 60 * config.save.every_minutes
    assert [saved.point for saved in TrainingRecord(run.run_folder).saved] == [2]
