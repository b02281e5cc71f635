"""Every web UI whose stand-in can be driven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loading.a1111_ui import A1111UI
from tests.loading.classic_ui import ClassicUI
from tests.loading.forge_ui import ForgeUI
from tests.loading.standins import importable

WEB_UIS: dict[str, type[ForgeUI]] = {
    "classic": ClassicUI,
    "a1111": A1111UI,
    "forge": ForgeUI,
    "neo": ForgeUI,
    "reforge": ForgeUI,
}


@contextmanager
def opened(name: str, folder: Path) -> Iterator[ForgeUI]:
    """A web UI with our loader in it, and this folder of adapters; gone again afterwards."""
    with importable(name):
        started = WEB_UIS[name](name, folder)
        try:
            assert started.messages == []
            yield started
        finally:
            started.host.remove_loader()
