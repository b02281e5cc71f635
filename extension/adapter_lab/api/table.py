"""Every route, in the order of docs/api.md."""

from __future__ import annotations

from adapter_lab.api import catalog, comparing, dataset, files, runs, streams, studies, tools
from adapter_lab.api.route import Route

ROUTES: tuple[Route, ...] = (
    *catalog.ROUTES,
    *dataset.ROUTES,
    *runs.ROUTES,
    *comparing.ROUTES,
    *studies.ROUTES,
    *streams.ROUTES,
    *tools.ROUTES,
    *files.ROUTES,
)
