"""What was read of a log is kept beside it, and counts only while the log is still that log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab.runs import state_cache
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.read import Tail
from adapter_lab.runs.state import RunState


def write_log(path: Path, steps: int) -> None:
    with EventLog(path) as log:
        log.write("started", name="cat", algo="lokr", adapters="x")
        for step in range(1, steps + 1):
            rates = {"unet": {"lr": 1e-4, "d": None}} if step > 2 else {}
            log.write("step", step=step, loss=1 / step, rates=rates, seconds_per_step=0.5, progress=step / 100)
        log.write("saved", step=steps, path="a.safetensors", bytes=5, removed=[])
        log.write("warning", message="slow")


def read(path: Path) -> tuple[RunState, int]:
    tail, state = Tail(path), RunState()
    state.feed(tail.read())
    return state, tail.offset


def same(left: RunState, right: RunState) -> bool:
    plain = [{**vars(state), "series": None} for state in (left, right)]
    numbers = [
        {name: list(map(repr, column)) for name, column in state.series.columns.items()} for state in (left, right)
    ]
    return plain[0] == plain[1] and numbers[0] == numbers[1] and left.series.steps == right.series.steps


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A log that was read and kept up to here."""
    path = tmp_path / "events.jsonl"
    write_log(path, 40)
    state_cache.keep(path, *read(path))
    return path


def test_a_state_that_was_kept_is_the_same_and_goes_on_as_one_that_was_not(kept: Path) -> None:
    state, offset = state_cache.recall(kept)
    assert offset == kept.stat().st_size and same(state, read(kept)[0])
    with EventLog(kept) as log:
        log.write("resumed", step=30)
        log.write("step", step=31, loss=9.0, rates={"unet": {"lr": 1e-5}, "te1": {"lr": 1e-5}}, seconds_per_step=0.4)
        log.write("warning", message="slower")
    tail = Tail(kept, offset)
    state.feed(tail.read())
    assert same(state, read(kept)[0]) and state.step == 31 and len(state.messages) == 2


def test_a_line_torn_after_it_was_kept_costs_only_itself(kept: Path) -> None:
    with kept.open("a") as file:
        file.write('{"event":"step","st')
    state, offset = state_cache.recall(kept)
    assert state.step == 40 and Tail(kept, offset).read() == []
    with EventLog(kept) as log:
        log.write("step", step=41, loss=1.0)
    assert [event["step"] for event in Tail(kept, offset).read()] == [41]


def test_a_log_written_anew_or_cut_is_read_from_its_start(kept: Path) -> None:
    whole = kept.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole.replace(b'"lokr"', b'"loha"'),
        whole.replace(b"slow", b"fast"),
        b"",
    ):
        kept.write_bytes(content)
        assert state_cache.recall(kept)[1] == 0
    kept.write_bytes(whole)
    assert state_cache.recall(kept)[1] == len(whole)
    kept.unlink()
    assert state_cache.recall(kept)[1] == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "pickled", "version", "columns"])
def test_a_damaged_or_foreign_file_is_passed_over(kept: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    path = kept.with_name(state_cache.FILE)
    data = path.read_bytes()
    if damage == "version":
        monkeypatch.setattr(state_cache, "VERSION", state_cache.VERSION + 1)
    elif damage == "columns":
        arrays = dict(np.load(path))
        np.savez(path, **{**arrays, "columns": arrays["columns"][:, :3]})
    elif damage == "pickled":
        np.savez(path, head=np.array([{"a": 1}], dtype=object))
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "other": json.dumps({}).encode()}[damage])
    state, offset = state_cache.recall(kept)
    assert offset == 0 and state.step == 0


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    write_log(path, 4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    state_cache.keep(path, *read(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["events.jsonl"]


def test_small_logs_are_not_kept_and_large_ones_only_as_they_grow() -> None:
    assert not state_cache.worth_keeping(state_cache.LEAST_BYTES, 0)
    assert state_cache.worth_keeping(2 * state_cache.LEAST_BYTES, 0)
    assert not state_cache.worth_keeping(80 * 2**20, 75 * 2**20)
