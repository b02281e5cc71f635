"""The queue: its order, pausing, two workers on one folder, ends of every kind, and a file that is broken."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import read_events
from adapter_lab.worker import process
from adapter_lab.worker import worker as worker_module
from tests.worker.conftest import lives, wait_for, wait_state

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the quick trainer is started through /bin/sh")


def submit(worker, config: TrainConfig, name: str, when: str = "queue", steps: int = 5) -> str:
    config.run.name, config.run.steps = name, steps
    return worker.submit(config, when)


def started_order(root: Path) -> list[str]:
    times = {}
    for path in root.glob("*/events.jsonl"):
        times[path.parent.name] = read_events(path)[0]["time"]
    return sorted(times, key=times.__getitem__)


def test_runs_are_trained_in_the_order_of_the_queue_one_at_a_time(make_worker, quick, config):
    calls = []
    worker = make_worker(
        python=quick, before_start=lambda: calls.append("before"), after_end=lambda: calls.append("after")
    )
    a, b, c = (submit(worker, config, name) for name in "abc")
    worker.reorder([c, a])
    assert worker.queue().order == [c, a, b]
    assert [run.state for run in worker.runs()] == ["queued"] * 3
    most = 0
    worker.start_background()

    def done() -> bool:
        nonlocal most
        most = max(most, len(worker.queue().active))
        return all(run.state == "finished" for run in worker.runs())

    wait_for(done)
    assert most == 1
    assert started_order(worker.root) == [c, a, b]
    wait_for(lambda: "after" in calls)
    assert calls == ["before"] * 3 + ["after"]
    assert worker.queue().order == []


def test_two_workers_on_one_folder_start_each_run_once(make_worker, quick, config):
    first, second = make_worker(python=quick), make_worker(python=quick)
    names = [submit(first if index % 2 else second, config, f"r{index}", steps=2) for index in range(6)]
    first.start_background()
    second.start_background()
    wait_for(lambda: all(run.state == "finished" for run in first.runs()))
    for name in names:
        events = [event["event"] for event in read_events(first.root / name / "events.jsonl")]
        assert events.count("started") == 1 and "resumed" not in events
    spans = sorted(
        (events[0]["time"], events[-1]["time"])
        for events in (read_events(first.root / name / "events.jsonl") for name in names)
    )
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_a_paused_queue_starts_nothing_until_it_goes_on_also_after_a_restart(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "a")
    worker.pause(True)
    assert worker.advance() == ""
    again = make_worker(python=quick)
    assert again.queue().paused and again.queue().order == [run]
    assert again.advance() == ""
    now = submit(again, config, "b", "now")
    assert wait_state(again, now, "finished").step == 5
    again.pause(False)
    wait_for(lambda: again.advance())
    wait_state(again, run, "finished")


def test_a_second_run_now_is_refused_and_leaves_nothing(make_worker, quick, config):
    worker = make_worker(python=quick)
    first = submit(worker, config, "first", "now", steps=10_000)
    wait_state(worker, first, "running")
    with pytest.raises(AdapterLabError, match=f"{first} is training right now"):
        submit(worker, config, "second", "now")
    assert [run.id for run in worker.runs()] == [first]
    for forbidden in (worker.delete, worker.resume):
        with pytest.raises(AdapterLabError, match="stop it first"):
            forbidden(first)
    worker.stop(first)
    summary = wait_state(worker, first, "stopped")
    assert summary.message == "Stopped on request, after saving."


def test_a_stop_asked_for_while_the_process_starts_is_kept(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "a", "now", steps=10_000)
    worker.stop(run)
    assert worker.summary(run).state == "stopping"
    assert wait_state(worker, run, "stopped").step < 10


def test_stopping_at_once_ends_all_that_the_run_started(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "parent", "now", steps=10_000)
    child = wait_for(lambda: (worker.root / run / "child").exists() and (worker.root / run / "child").read_text())
    worker.stop(run, "now")
    wait_for(lambda: not lives(int(child)))
    summary = worker.summary(run)
    assert summary.state == "stopped" and "Stopped at once" in summary.message
    assert not (worker.root / run / "process.json").exists()


def test_a_run_that_ignores_the_gentle_stop_can_be_ended_at_once(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "stubborn", "now", steps=10_000)
    wait_state(worker, run, "running")
    worker.stop(run)
    time.sleep(0.2)
    assert worker.summary(run).state == "stopping"
    worker.stop(run, "now")
    assert worker.summary(run).state == "stopped"
    with pytest.raises(AdapterLabError, match="does not train any more"):
        worker.stop(run)


def test_a_killed_trainer_is_said_to_be_killed_and_the_queue_goes_on(make_worker, quick, config):
    worker = make_worker(python=quick)
    starved, after = submit(worker, config, "starved"), submit(worker, config, "after")
    worker.start_background()
    summary = wait_state(worker, starved, "killed")
    assert "ran out of memory" in summary.message and summary.ended_at
    wait_state(worker, after, "finished")
    worker.resume(starved)
    assert wait_state(worker, starved, "finished").step == 5


def test_a_trainer_that_ends_before_its_first_event_fails_with_its_own_sentence(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "broken", "now")
    assert wait_state(worker, run, "failed").message == "The checkpoint is gone; choose another."
    worker.delete(run)
    assert worker.runs() == [] and not (worker.root / run).exists()


def test_a_run_goes_on_when_its_starter_is_killed_and_is_found_again(make_worker, quick, config, tmp_path):
    from adapter_lab import config_file

    config.run.name, config.run.steps = "survivor", 10_000
    config_file.write(config, tmp_path / "c.toml")
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom adapter_lab import config_file\n"
        "from adapter_lab.worker import Worker\n"
        "worker = Worker(Path(sys.argv[1]), python=Path(sys.argv[2]))\n"
        "print(worker.submit(config_file.load(sys.argv[3]), 'now'), flush=True)\ntime.sleep(300)\n"
    )
    arguments = [str(tmp_path / "runs"), str(quick), str(tmp_path / "c.toml")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    starter = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert starter.stdout is not None
    run = starter.stdout.readline().strip()
    worker = make_worker(python=quick)
    wait_state(worker, run, "running")
    starter.kill()
    starter.wait()
    step = worker.summary(run).step
    wait_for(lambda: worker.summary(run).step > step + 5)
    active = worker.active()
    assert active is not None and active.id == run
    with pytest.raises(AdapterLabError, match="is training right now"):
        submit(worker, config, "other", "now")
    worker.stop(run)
    wait_state(worker, run, "stopped")


def test_a_starter_that_dies_before_its_process_is_noted_does_not_start_two(make_worker, quick, config, monkeypatch):
    worker = make_worker(python=quick)
    run = submit(worker, config, "a")
    folder = worker.folder(run)
    gone = {"pid": 2**22 - 3, "started": 1.0}
    folder.starting.write_text(json.dumps({"worker": gone, "child": None, "at": time.time()}))
    assert worker.summary(run).state == "starting" and worker.advance() == ""
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.0)
    folder.starting.write_text(json.dumps({"worker": gone, "child": None, "at": time.time() - 1}))
    summary = worker.summary(run)
    assert summary.state == "killed" and "before it had started" in summary.message
    worker.resume(run)
    assert worker.advance() == run
    wait_state(worker, run, "finished")


def test_a_broken_queue_file_is_kept_aside_and_said(make_worker, quick, config):
    worker = make_worker(python=quick)
    run = submit(worker, config, "a")
    (worker.root / "queue.json").write_text('{"order": ["a')
    assert "cannot be read" in worker.queue().message
    summary = worker.summary(run)
    assert (summary.state, summary.message) == ("stopped", "It was never started.")
    worker.resume(run)
    assert "kept as queue.broken-" in worker.queue().message
    assert len(list(worker.root.glob("queue.broken-*.json"))) == 1
    assert worker.queue().order == [run]
    worker.start_background()
    wait_state(worker, run, "finished")


def test_a_full_disk_refuses_a_run_and_pauses_the_queue(make_worker, quick, config, monkeypatch):
    worker = make_worker(python=quick)
    run = submit(worker, config, "a")
    usage = shutil.disk_usage(worker.root)
    monkeypatch.setattr(worker_module.shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**20))
    with pytest.raises(AdapterLabError, match="Only 5 MiB are free"):
        submit(worker, config, "b")
    worker.advance()
    queue = worker.queue()
    assert queue.paused and queue.order == [run] and "Only 5 MiB are free" in queue.message
    assert worker.summary(run).state == "queued"
    monkeypatch.undo()
    worker.pause(False)
    assert worker.queue().message == ""
    assert worker.advance() == run
    wait_state(worker, run, "finished")


def test_a_host_that_cannot_free_its_gpu_starts_nothing(make_worker, quick, config):
    def refuse() -> None:
        raise AdapterLabError("An image is being made.")

    worker = make_worker(python=quick, before_start=refuse)
    with pytest.raises(AdapterLabError, match="An image is being made"):
        submit(worker, config, "a", "now")
    assert worker.runs() == []


def test_a_run_folder_deleted_by_hand_leaves_the_queue_and_the_list(make_worker, quick, config):
    worker = make_worker(python=quick)
    gone, stays = submit(worker, config, "gone"), submit(worker, config, "stays")
    shutil.rmtree(worker.root / gone)
    assert worker.advance() == stays
    wait_state(worker, stays, "finished")
    assert [run.id for run in worker.runs()] == [stays] and worker.queue().order == []
    with pytest.raises(AdapterLabError, match="There is no run"):
        worker.run(gone)


@pytest.mark.parametrize("name", ["..", ".", "", "../runs", "a/b"])
def test_a_run_is_asked_for_by_its_name_alone(make_worker, quick, config, name):
    worker = make_worker(python=quick)
    submit(worker, config, "a")
    with pytest.raises(AdapterLabError, match="There is no run"):
        worker.delete(name)


def test_without_the_private_environment_the_command_that_makes_it_is_said(make_worker, config, monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path / "none"))
    worker = make_worker(python=None)
    with pytest.raises(AdapterLabError, match=r"not set up yet.*install\.py"):
        worker.submit(config)
    assert worker.runs() == []
