"""Threads that answer requests: those that wait for a job take none from those that only look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import RunVar

T = TypeVar("T")
# Whether a request waits for a job -> threads; a job is a process, and a few at once use all of a machine.
THREADS = {False: 20, True: 6}
_limiters: RunVar[dict[bool, anyio.CapacityLimiter]] = RunVar("adapter_lab_threads")


async def in_thread(waits: bool, call: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a thread; one that `waits` for a job stands in a line of its own where all are taken."""
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = {kind: anyio.CapacityLimiter(count) for kind, count in THREADS.items()}
        _limiters.set(limiters)
    return await anyio.to_thread.run_sync(call, *arguments, limiter=limiters[waits])
