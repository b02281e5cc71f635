"""Streams of events from a real server: resumed where they broke off, ended with the run, never in a server's way."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from adapter_lab.api import Context
from adapter_lab.runs.events import EventLog


def _stream(address: str, **headers: str) -> Iterator[tuple[str | None, str, Any]]:
    """(id, event, data) of each event of a stream, until the server ends it."""
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields.get("id"), fields.get("event", "message"), json.loads(fields["data"])
                fields = {}
            else:
                fields = {}


def test_an_ended_runs_events_come_whole_and_then_the_end(server: str, make_run: Any) -> None:
    make_run("cat", steps=50)
    found = list(_stream(f"{server}/runs/cat/events"))
    assert [event["step"] for _, _, event in found[1:-2]] == list(range(1, 51))
    assert found[-2][2]["event"] == "finished" and found[-1][1] == "end"


def test_a_stream_goes_on_after_the_last_event_received(server: str, make_run: Any) -> None:
    make_run("cat", steps=20)
    whole = list(_stream(f"{server}/runs/cat/events"))
    for index in (0, 7, 20):
        last, rest = whole[index][0], whole[index + 1 :]
        assert list(_stream(f"{server}/runs/cat/events?after={last}")) == rest
        assert list(_stream(f"{server}/runs/cat/events?after=0", **{"Last-Event-ID": str(last)})) == rest


def test_events_arrive_as_they_are_written(server: str, make_run: Any) -> None:
    folder = make_run("cat", steps=1, ended="")
    seen: list[Any] = []
    with folder.claimed(), EventLog(folder.events) as log:
        listener = threading.Thread(target=lambda: seen.extend(_stream(f"{server}/runs/cat/events")), daemon=True)
        listener.start()
        time.sleep(1)
        log.write("step", step=2, loss=0.5)
        time.sleep(1)
        assert listener.is_alive()
        log.write("finished", step=2, reason="all steps are done")
    listener.join(timeout=15)
    assert not listener.is_alive()
    assert [event.get("step") for _, name, event in seen if name == "message"][-2:] == [2, 2] and seen[-1][1] == "end"


def test_a_deleted_runs_stream_ends(server: str, make_run: Any, context: Context) -> None:
    folder = make_run("cat", ended="")
    with folder.claimed():
        stream = _stream(f"{server}/runs/cat/events")
        next(stream)
        folder.config.unlink()
        folder.events.unlink()
        assert list(stream)[-1][1] == "end"


def test_pages_hear_of_runs_that_come_change_and_go(server: str, make_run: Any, context: Context) -> None:
    make_run("cat")
    first, second = (_stream(f"{server}/events") for _ in range(2))  # two pages at once
    for stream in (first, second):
        _, _, change = next(stream)
        assert [run["id"] for run in change["runs"]] == ["cat"] and change["queue"]["order"] == []
    make_run("dog", ended="failed")
    for stream in (first, second):
        _, _, change = next(stream)
        assert [(run["id"], run["state"]) for run in change["runs"]] == [("dog", "failed")] and "queue" not in change
    context.worker.delete("dog")
    context.worker.pause(True)
    heard: dict[str, Any] = {}
    while not {"removed", "queue"} <= set(heard):
        heard |= next(first)[2]
    assert heard["removed"] == ["dog"] and heard["queue"]["paused"]


def test_streams_end_when_the_server_is_about_to_stop(server: str, make_run: Any, context: Context) -> None:
    make_run("cat")
    stream = _stream(f"{server}/events")
    next(stream)
    context.closing = lambda: True
    begun = time.monotonic()
    assert not [name for _, name, _ in stream if name == "end"] and time.monotonic() - begun < 5
