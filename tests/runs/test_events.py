"""The event log: appended line by line, readable after a crash, read once over a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from adapter_lab.runs.events import EventLog, read_events, read_lines


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
        "from adapter_lab.runs.events import EventLog\n"
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


def test_the_log_is_plain_utf8_lines(tmp_path: Path):
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("note", message="größer\u2028next")
    content = (tmp_path / "e.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert content.count(b"\n") == 1
