"""What the axes of a grid say about one of its cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from adapter_lab.comparing.values import NONE

TYPE, STEP, STRENGTH, FILE, STUDY = "Type", "Step", "Strength", "File", "Study"
PREFIX = "[Adapter Lab] "  # of their labels in a web UI
AXES = (TYPE, STEP, STRENGTH, FILE, STUDY)


@dataclass(frozen=True)
class Cell:
    """What the axes say about one cell; None: there is no such axis."""

    type: str | None = None
    step: str | None = None
    strength: float | None = None
    file: str | None = None
    study: str | None = None

    def with_value(self, axis: str, value: str | float) -> Cell:
        """The same with the value of one more axis."""
        changed: dict[str, Any] = {axis.lower(): float(value) if axis == STRENGTH else str(value)}
        return replace(self, **changed)

    @property
    def is_baseline(self) -> bool:
        """Whether it is the image without an adapter: "none" on any axis, or step 0, where training began."""
        chosen = (self.type, self.file, self.study, self.step)
        return any(value is not None and value.lower() == NONE for value in chosen) or self.step == "0"
