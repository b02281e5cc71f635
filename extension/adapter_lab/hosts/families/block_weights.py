"""sd-webui-lora-block-weight, where it works on the patches of a loaded model: it keeps only the types it knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import PurePath

SCRIPT, KEPT_TYPES = "lora_block_weight.py", "LORAS"


def keep_patches_of_type(name: str) -> None:
    """Have the extension, if it is installed, give patches of this type their strengths by block and step too."""
    for types in _kept_types():
        if name not in types:
            types.append(name)


def keep_no_longer(name: str) -> None:
    """Undo `keep_patches_of_type`."""
    for types in _kept_types():
        if name in types:
            types.remove(name)


def _kept_types() -> Iterator[list[str]]:
    scripts = sys.modules.get("modules.scripts")
    for data in getattr(scripts, "scripts_data", ()):
        if PurePath(str(getattr(data, "path", ""))).name == SCRIPT:
            types = getattr(getattr(data, "module", None), KEPT_TYPES, None)
            if isinstance(types, list):
                yield types
