"""Stand-in for `modules.scripts`: the scripts the host has loaded."""

from typing import Any

scripts_data: list[Any] = []
