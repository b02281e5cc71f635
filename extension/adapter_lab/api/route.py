"""A route as data: what it takes, what it gives and the function that answers; the app and docs/api.md come from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.context import Context

Handler = Callable[[Context, Call], Any]


@dataclass(frozen=True)
class Route:
    """`handler` runs in a thread and returns what JSON can hold, or a response of its own.

    `gives`: what the answer is, for the documentation. `body` and `query` are the values it takes. `waits`: whether it
    waits for a job, or for what a job waits for.
    """

    method: str
    path: str
    handler: Handler
    about: str
    gives: str
    query: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] = ()
    waits: bool = False
