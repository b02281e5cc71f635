"""Adapter Lab over HTTP, under /adapter-lab/v1 of a web UI's own server or of `adapter-lab ui`."""

from __future__ import annotations

from adapter_lab.api.app import attach, make_router
from adapter_lab.api.context import Context

__all__ = ["Context", "attach", "make_router"]
