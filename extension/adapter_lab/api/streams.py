"""Server-sent events: what a run writes into its log, and how all runs stand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
from starlette.responses import StreamingResponse

from adapter_lab.api.answers import as_json
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.context import Context
from adapter_lab.api.overview import Overview
from adapter_lab.api.route import Route
from adapter_lab.api.runs import known
from adapter_lab.api.threads import in_thread
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.read import Tail
from adapter_lab.worker.summary import LIVING

LOOK_SECONDS = 0.5
QUIET_SECONDS = 15.0
# A browser connects again by itself. Streams that never end would keep a server from stopping for ever.
LONGEST_SECONDS = 600.0
MOST_BYTES = 1 << 20
END = b"event: end\ndata: {}\n\n"


def stream(context: Context, parts: Callable[[], Iterator[bytes]]) -> StreamingResponse:
    """A response of the parts that `parts()` yields; it is asked in a thread, an empty part means: nothing new.

    Ends where the iterator does, when the server is about to stop, and after LONGEST_SECONDS.
    """

    async def content() -> AsyncIterator[bytes]:
        begun = said = time.monotonic()
        yield b": adapter lab\n\n"  # so that the browser knows at once that it is connected
        iterator = parts()
        while not context.closing() and time.monotonic() - begun < LONGEST_SECONDS:
            part = await in_thread(False, next, iterator, None)
            if part is None:
                return
            if part:
                said = time.monotonic()
                yield part
                continue
            if time.monotonic() - said > QUIET_SECONDS:
                said = time.monotonic()
                yield b": still here\n\n"
            await anyio.sleep(LOOK_SECONDS)

    headers = {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx
        "Content-Encoding": "identity",  # or web UIs' compression would hold parts back until it has enough
    }
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)


def run_events(context: Context, call: Call) -> StreamingResponse:
    folder = known(context, call)
    last = call.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() else call["after"]
    return stream(context, lambda: _of_run(context, call.path["id"], Tail(folder.events, max(0, after))))


def _of_run(context: Context, run_id: str, tail: Tail) -> Iterator[bytes]:
    while True:
        try:
            summary = context.worker.summary(run_id)  # before the log: what is written as it ends is still sent
        except AdapterLabError:  # deleted
            yield END
            return
        found = b"".join(_event(event, offset) for event, offset in tail.read_with_offsets(MOST_BYTES))
        if not found and summary.state not in (*LIVING, "queued"):
            yield END
            return
        yield found


def _event(event: dict[str, Any], offset: int) -> bytes:
    return f"id: {offset}\n".encode() + data(event)


def data(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + as_json(value) + b"\n\n"


def overview(context: Context, call: Call) -> StreamingResponse:
    return stream(context, lambda: _changes(context.overview))


def _changes(watched: Overview) -> Iterator[bytes]:
    """All runs and the queue at first, then what changed of them."""
    shown: dict[str, dict[str, Any]] = {}
    queue: dict[str, Any] | None = None
    first = True
    while True:
        runs, now = watched.read()
        change: dict[str, Any] = {}
        if changed := [run for run_id, run in runs.items() if shown.get(run_id) != run]:
            change["runs"] = changed
        if removed := [run_id for run_id in shown if run_id not in runs]:
            change["removed"] = removed
        if queue != now:
            change["queue"] = now
        shown, queue = runs, now
        yield data({"runs": [], **change} if first else change) if change or first else b""
        first = False


ROUTES = (
    Route(
        "GET",
        "/runs/{id}/events",
        run_events,
        "A run's events as they are written (server-sent events).",
        "per event `id`: its offset in the log, `data`: the event; a comment every 15 seconds; the event `end` when "
        "the run has ended. A stream may end before; connect again with the last id (`Last-Event-ID` or `after`)",
        query=(Parameter("after", "whole number", "offset in the log to begin at", 0, minimum=0, maximum=2**53),),
    ),
    Route(
        "GET",
        "/events",
        overview,
        "What changes of the runs and the queue, about once a second (server-sent events).",
        "`data`: `runs` (those that changed, as in GET /runs), `removed` (ids), `queue`; all of it at first",
    ),
)
