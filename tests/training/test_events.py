"""The event log: appended line by line, readable after a crash, read once over a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from adapter_lab.training.deferred import DeferredValues
from adapter_lab.training.events import EventLog, read_events, read_lines
from adapter_lab.training.peak_memory import MemoryMeter


def test_events_are_written_and_read_back_in_order(tmp_path):
    seen = []
    with EventLog(tmp_path / "events.jsonl", seen.append) as log:
        log.write("started", run=tmp_path / "x", step=0)
        log.write("step", step=1, loss=0.1 + 0.2, lr={"unet": 1e-6}, caption="日本\nzwei")
        log.write("step", step=2, loss=float("nan"))
    events = read_events(tmp_path / "events.jsonl")
    assert events == seen
    assert [event["event"] for event in events] == ["started", "step", "step"]
    assert events[0]["run"] == str(tmp_path / "x")
    assert events[1]["loss"] == 0.1 + 0.2
    assert events[1]["caption"] == "日本\nzwei"
    assert events[2]["loss"] is None
    assert len((tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_every_event_survives_a_kill(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from adapter_lab.training.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for step in range(50): log.write('step', step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "events.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", program, str(path)], env=environment)
    assert result.returncode == -9
    assert [event["step"] for event in read_events(path)] == list(range(50))


def test_a_torn_last_line_is_left_out_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":"step","step":1}\n{"event":"step","st', encoding="utf-8")
    assert [event["step"] for event in read_lines(path)] == [1]
    with EventLog(path) as log:
        log.write("resumed", step=1)
    assert [event["event"] for event in read_lines(path)] == ["step", "resumed"]


def test_steps_done_again_after_a_resume_are_read_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for step in (1, 2, 3, 4):
            log.write("step", step=step, loss=1.0)
        log.write("saved", step=4, path="a-000004.safetensors")
        log.write("failed", step=4, message="the disk is full")
    with EventLog(path) as log:
        log.write("resumed", step=2)
        for step in (3, 4, 5):
            log.write("step", step=step, loss=2.0)
        log.write("finished", step=5)
    events = read_events(path)
    steps = [(event["step"], event["loss"]) for event in events if event["event"] == "step"]
    assert steps == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [e["event"] for e in events if e["event"] != "step"] == ["resumed", "finished"]


def test_lines_that_are_json_but_no_events_are_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('3\n[]\n{"a": 1}\n{"event": "note"}\n' + json.dumps({"event": "step"}), encoding="utf-8")
    assert [event["event"] for event in read_lines(path)] == ["note", "step"]


def test_values_on_the_host_are_ready_at_once_and_in_order():
    queue: DeferredValues[str] = DeferredValues()
    queue.push(torch.tensor([1.0, 2.0]), "a")
    queue.push(torch.tensor([3.0]), "b")
    assert queue.ready() == [([1.0, 2.0], "a"), ([3.0], "b")]
    assert queue.ready(wait=True) == []


class SlowEvent:
    """Stands in for a CUDA event that completes after being asked twice."""

    def __init__(self) -> None:
        self.asked = 0
        self.waited = False

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 2

    def synchronize(self) -> None:
        self.waited = True


def test_values_still_on_their_way_are_handed_out_later_without_waiting():
    queue: DeferredValues[str] = DeferredValues()
    queue.push(torch.tensor([1.0]), "a")
    event = SlowEvent()
    queue._pending[0].arrived = event
    assert queue.ready() == []
    assert queue.ready() == []
    assert not event.waited
    assert queue.ready() == [([1.0], "a")]
    queue.push(torch.tensor([2.0]), "b")
    queue._pending[0].arrived = late = SlowEvent()
    assert queue.ready(wait=True) == [([2.0], "b")]
    assert late.waited


def test_peak_memory_sees_an_allocation_that_is_freed_again():
    meter = MemoryMeter(torch.device("cpu"))
    block = torch.ones(30_000_000)
    meter.present()
    del block
    # 120 MB, of which a few may come from pages the process already had.
    assert 90e6 < meter.peak() < 400e6


def test_peak_memory_counts_from_its_own_start():
    block = torch.ones(50_000_000)
    del block
    assert MemoryMeter(torch.device("cpu")).peak() < 50e6


def test_the_log_is_plain_utf8_lines(tmp_path: Path):
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("note", message="größer\u2028next")
    content = (tmp_path / "e.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert content.count(b"\n") == 1
