"""Runs as they are read while they grow, by one program after another."""

from __future__ import annotations

import json

from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.worker.run_index import IndexedRun, RunIndex


def test_a_long_log_is_read_on_by_the_next_web_ui_from_where_the_last_one_was(tmp_path):
    folder = RunFolder(tmp_path / "long")
    folder.path.mkdir()
    with EventLog(folder.events) as log:
        log.write("started", name="long", algo="lokr", adapters="x")
    line = json.dumps({"event": "step", "step": 1, "loss": 0.5, "seconds_per_step": 0.25, "filling": "x" * 1000}) + "\n"
    with folder.events.open("a") as file:
        file.writelines(line.replace('"step": 1,', f'"step": {step},') for step in range(1, 1500))
    first = RunIndex(tmp_path).get("long")
    with EventLog(folder.events) as log:
        log.write("step", step=1500, loss=0.25)
    again = IndexedRun.of(folder)
    assert again.tail.offset == first.tail.offset > 2**17 and again.state.step == 1499
    assert RunIndex(tmp_path).get("long").state.step == 1500
