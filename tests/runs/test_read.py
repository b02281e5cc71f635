"""A log read while it grows: whole lines, once each, quickly, also over a resume and a crash."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from adapter_lab.runs.events import EventLog, read_events
from adapter_lab.runs.findings import findings
from adapter_lab.runs.read import Tail
from adapter_lab.runs.series import Series
from adapter_lab.runs.state import RunState


def step_line(step: int, **values) -> str:
    event = {
        "event": "step",
        "time": 1.7e9 + step,
        "step": step,
        "epoch": 0,
        "loss": 0.1 + (step % 7) / 100,
        "rates": {"unet": {"lr": 1e-4, "d": 1e-4, "d_hat": 1e-4}},
        "seconds_per_step": 0.25,
        "memory_bytes": 2**33,
        "progress": min(1.0, step / 100_000),
        **values,
    }
    return json.dumps(event) + "\n"


def test_a_tail_gives_each_event_once_as_it_comes(tmp_path):
    tail = Tail(tmp_path / "events.jsonl")
    assert tail.read() == []
    with EventLog(tail.path) as log:
        log.write("started", name="a")
        assert [event["event"] for event in tail.read()] == ["started"]
        assert tail.read() == []
        log.write("step", step=1)
        log.write("step", step=2)
        assert [event["step"] for event in tail.read()] == [1, 2]
    assert tail.offset == tail.path.stat().st_size


def test_half_a_line_waits_for_its_other_half(tmp_path):
    path = tmp_path / "events.jsonl"
    whole = step_line(1).encode()
    path.write_bytes(whole[:20])
    tail = Tail(path)
    assert tail.read() == [] and tail.offset == 0
    path.write_bytes(whole)
    assert [event["step"] for event in tail.read()] == [1]


def test_a_line_torn_by_a_crash_costs_only_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(step_line(1) + step_line(2)[:30])
    tail = Tail(path)
    assert [event["step"] for event in tail.read()] == [1]
    with EventLog(path) as log:
        log.write("resumed", step=1)
    assert [event["event"] for event in tail.read()] == ["resumed"]


def test_a_tail_goes_on_from_an_offset(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(step_line(step) for step in range(1, 6)))
    pairs = list(Tail(path).read_with_offsets())
    assert [event["step"] for event in Tail(path, pairs[2][1]).read()] == [4, 5]
    assert [event["step"] for event, _ in Tail(path).read_with_offsets(limit=10**9)] == [1, 2, 3, 4, 5]


def test_a_log_that_was_replaced_by_a_shorter_one_is_read_from_its_start(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(step_line(step) for step in range(1, 6)))
    tail = Tail(path)
    tail.read()
    path.unlink()
    assert tail.read() == []
    path.write_text(step_line(9))
    assert [event["step"] for event in tail.read()] == [9]
    assert tail.restarted == 1


def test_a_line_longer_than_a_block_is_read(tmp_path, monkeypatch):
    from adapter_lab.runs import read

    monkeypatch.setattr(read, "BLOCK", 64)
    path = tmp_path / "events.jsonl"
    path.write_text(step_line(1) + json.dumps({"event": "note", "message": "x" * 1000}) + "\n" + step_line(2))
    assert [event["event"] for event in Tail(path).read()] == ["step", "note", "step"]


def test_100_000_events_are_read_in_a_second_and_what_is_new_in_no_time(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(step_line(step) for step in range(1, 100_001)))
    tail, state = Tail(path), RunState()
    begin = time.process_time()
    state.feed(tail.read())
    first = time.process_time() - begin
    with path.open("a") as file:
        file.write(step_line(100_001))
    begin = time.process_time()
    state.feed(tail.read())
    again = time.process_time() - begin
    begin = time.process_time()
    drawn = state.series.drawn(1000)
    drawing = time.process_time() - begin
    assert state.step == 100_001
    assert len(drawn["steps"]) <= 1000
    # A second on a machine with nothing else to do (docs/benchmarks.md); processor time is steadier, yet not steady.
    assert first < 3 and again < 0.02 and drawing < 0.2


def test_a_state_fed_piece_by_piece_over_a_resume_is_that_of_the_story_told_once(tmp_path):
    path = tmp_path / "events.jsonl"
    tail, pieces = Tail(path), RunState()
    with EventLog(path) as log:
        log.write("started", name="a", algo="lokr", adapters="x")
        log.write("training", step=0, total_steps=6, steps_per_epoch=2)
        for step in (1, 2, 3, 4):
            log.write("step", step=step, loss=float(step), seconds_per_step=1.0, progress=step / 6)
        log.write("state", step=2)
        log.write("saved", step=2, path="a-000002.safetensors", bytes=5, removed=[])
        log.write("saved", step=4, path="a-000004.safetensors", bytes=5, removed=[])
        log.write("sample", step=4, paths=["s/000004-0.png"], prompts=["p"])
        pieces.feed(tail.read())
        log.write("failed", message="x")
    pieces.feed(tail.read())
    assert pieces.end is not None
    with EventLog(path) as log:
        log.write("resumed", step=2)
        for step in (3, 4, 5):
            log.write("step", step=step, loss=10.0 * step, seconds_per_step=2.0, progress=step / 6)
    pieces.feed(tail.read())
    whole = RunState()
    whole.feed(read_events(path))
    for state in (pieces, whole):
        assert list(state.series.steps) == [1, 2, 3, 4, 5]
        assert list(state.series.columns["loss"]) == [1, 2, 30, 40, 50]
        assert list(state.adapters) == ["a-000002.safetensors"]
        assert state.samples == [] and state.end is None
        assert state.eta_seconds() == pytest.approx(2.0)
    assert list(pieces.series.columns["smooth"]) == list(whole.series.columns["smooth"])


def test_an_event_without_what_its_kind_needs_is_passed_over():
    state = RunState()
    state.feed(
        [{"event": "step"}, {"event": "saved"}, {"event": "resumed"}, {"event": "sample"}, {"event": "new kind"}]
    )
    state.feed([{"event": "step", "step": "x"}, {"event": "step", "step": 1, "rates": [1]}, {"event": "pictures"}])
    state.feed([{"event": "step", "step": 1, "loss": None}, {"event": "step", "step": 2, "loss": 0.5}])
    assert list(state.series.steps) == [1, 2]
    assert {len(column) for column in state.series.columns.values()} == {2}
    assert state.loss == 0.5


def test_drawn_with_few_points_a_spike_still_shows_and_earlier_bins_stay():
    series = Series()
    for step in range(1, 1001):
        series.extend([{"step": step, "loss": 50.0 if step == 333 else 1.0, "rates": {"unet": {"lr": 0.1}}}])
    drawn = series.drawn(100)
    assert drawn["bin"] == 16 and len(drawn["steps"]) == 63 and drawn["steps"][-1] == 1000
    loss = drawn["columns"]["loss"]
    assert max(loss["max"]) == 50.0 and max(loss["min"]) == 1.0
    assert loss["mean"][0] == 1.0 and loss["max"].index(50.0) == 332 // 16
    assert drawn["columns"]["lr/unet"]["mean"][5] == pytest.approx(0.1)
    series.extend([{"step": 1001, "loss": 2.0}])
    again = series.drawn(100)
    assert again["columns"]["loss"]["mean"][:62] == loss["mean"][:62]
    assert json.dumps(again)


def test_numbers_that_are_missing_are_none_and_a_rate_that_comes_late_is_none_before():
    series = Series()
    series.extend([{"step": 1, "loss": None}])
    series.extend([{"step": 2, "loss": 0.5, "rates": {"te1": {"lr": 0.1}}}])
    drawn = series.drawn(10)["columns"]
    assert drawn["loss"]["mean"] == [None, 0.5] and drawn["lr/te1"]["mean"] == [None, 0.1]
    assert Series().drawn(10) == {"bin": 1, "steps": [], "columns": {name: {"mean": []} for name in Series().columns}}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"loss": None},
        {"loss": "x"},
        {"memory_bytes": 10**400},
        {"rates": {}},
        {"rates": {"unet": {"lr": 1e-4}, "te1": {"lr": 1e-5}}},
        {"rates": {"unet": {"lr": None}}},
        {"rates": [1]},
        {"step": "x"},
        {"step": None},
    ],
)
def test_steps_read_together_come_to_the_same_as_one_by_one(odd):
    usual = {"event": "step", "time": 1.0, "loss": 0.5, "seconds_per_step": 0.3, "memory_bytes": 2**33}
    events = [{**usual, "step": step, "loss": 1 / step, "rates": {"unet": {"lr": 1e-4}}} for step in range(1, 61)]
    events[30] = {**events[30], **odd}
    together, singly = RunState(), RunState()
    together.feed(events)
    for event in events:
        singly.feed([event])
    assert together.series.steps == singly.series.steps
    columns = [state.series.columns for state in (together, singly)]
    assert {name: list(map(repr, column)) for name, column in columns[0].items()} == {
        name: list(map(repr, column)) for name, column in columns[1].items()
    }
    assert (together.best_speed, together.peak_bytes) == (singly.best_speed, singly.peak_bytes) == (0.3, 2**33)


def fed(steps) -> RunState:
    state = RunState()
    state.feed(
        [{"event": "started", "time": 1.0}, *({"event": "step", "step": i + 1, **s} for i, s in enumerate(steps))]
    )
    return state


def test_a_collapse_of_speed_is_said_and_single_slow_steps_are_not():
    normal = [{"seconds_per_step": 0.5}] * 60
    assert findings(fed(normal)) == []
    assert findings(fed([*normal, *[{"seconds_per_step": 9.0}] * 5])) == []
    (sentence,) = findings(fed([*normal, *[{"seconds_per_step": 2.0}] * 20]))
    assert "Steps take 2.00 s now and took 0.50 s before: probably the GPU's memory is full" in sentence
    state = fed([*normal, *[{"seconds_per_step": 2.0}] * 20])
    state.device = "cpu"
    (sentence,) = findings(state)
    assert "GPU" not in sentence and "other programs use the processor" in sentence


def rates(d: float) -> dict:
    return {"rates": {"unet": {"lr": 1e-6, "d": d}}}


def test_an_estimate_that_stays_where_it_began_is_said_and_one_that_found_its_rate_is_not():
    assert findings(fed([rates(1e-6)] * 199)) == []
    (sentence,) = findings(fed([rates(1e-6)] * 200))
    assert "is still at its start 1.0e-06 in 200 steps" in sentence
    assert findings(fed([rates(1e-6)] * 50 + [rates(4e-4)] * 1000)) == []
    (sentence,) = findings(fed([rates(1e-6)] * 50 + [rates(4e-6)] * 600))
    assert "stopped growing at 4.0e-06" in sentence


def test_the_story_of_a_finished_run_that_was_extended_has_both_files(tmp_path):
    path: Path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("saved", step=3, path="a.safetensors", bytes=1, removed=[])
        log.write("finished", step=3, reason="all 3 steps done")
        log.write("resumed", step=3)
        log.write("renamed", step=3, old="a.safetensors", path="a-000003.safetensors")
        log.write("saved", step=5, path="a.safetensors", bytes=1, removed=[])
    state = RunState()
    state.feed(read_events(path))
    assert {path: event["step"] for path, event in state.adapters.items()} == {
        "a-000003.safetensors": 3,
        "a.safetensors": 5,
    }
