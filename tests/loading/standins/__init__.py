"""Stand-ins of web UIs: of each, exactly the functions Adapter Lab touches, under the names and paths it imports.

Each folder is one web UI. Its files lie where an extension's imports find the real ones, define the same functions
with the same parameters (the real-host suite checks that), and behave as the real ones were seen to behave.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parent


@contextmanager
def importable(name: str) -> Iterator[None]:
    """Make the stand-in of a web UI importable, as the web UI's own modules are in its process, freshly each time."""
    root = FOLDER / name
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # Before the folder leaves the path: packages without a file of their own are found by it.
        ours = [module for module, found in sys.modules.items() if _comes_from(found, root)]
        sys.path.remove(str(root))
        for module in ours:
            del sys.modules[module]


def _comes_from(module: object, root: Path) -> bool:
    spec = getattr(module, "__spec__", None)
    places = [getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or [])]
    return any(isinstance(place, str) and Path(place).is_relative_to(root) for place in places)
