"""What became of each adapter file of a prompt, in the words of the console, the infotext and the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from adapter_lab.adapters.file import AdapterFile

SHOWN = 3  # modules a warning names


@dataclass
class FileReport:
    """One file of a prompt. `refused`: why nothing of it was applied, else None."""

    name: str  # as the prompt calls it
    path: str
    algorithms: str = ""  # "lokr", "lora with DoRA + norm"
    applied: int = 0  # modules
    total: int = 0  # modules in the file
    seconds: float = 0.0  # reading and matching it
    reasons: dict[str, str] = field(default_factory=dict)  # module or tensor -> why it was not applied
    refused: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all of the file was applied."""
        return not self.refused and not self.reasons

    def fail(self, module: str, reason: str) -> bool:
        """Note that a module that counted as applied was not; whether that is new."""
        if module in self.reasons:
            return False
        self.reasons[module] = reason
        self.applied -= 1
        return True

    def line(self) -> str:
        """For the console: `my-file: lokr, 354 of 354 modules, 0.41 s`."""
        if self.refused:
            return f"{self.name}: not applied. {self.refused}"
        return f"{self.summary()}, {self.seconds:.2f} s"

    def summary(self) -> str:
        """For the infotext, the same for the same picture: `my-file: lokr, 354 of 354 modules`."""
        if self.refused:
            return f"{self.name}: not applied"
        return f"{self.name}: {self.algorithms}, {self.applied} of {self.total} modules"

    def warning(self, shown: int = SHOWN) -> str | None:
        """What was not applied and why, the first `shown` modules by name; None if nothing is missing."""
        if self.refused:
            return self.line()
        if not self.reasons:
            return None
        missed = [f"{module}: {reason}" for module, reason in list(self.reasons.items())[:shown]]
        more = len(self.reasons) - len(missed)
        return f"{self.summary()}. Not applied: {'; '.join(missed)}{f'; and {more} more' if more else ''}."


def algorithms(file: AdapterFile) -> str:
    """The algorithms of a file in words, the most frequent first."""
    counts = Counter(
        file.algorithm_of(name) + (" with DoRA" if {"dora_scale", "lora_magnitude_vector"} & set(suffixes) else "")
        for name, suffixes in file.modules.items()
    )
    return " + ".join(name for name, _ in counts.most_common())
