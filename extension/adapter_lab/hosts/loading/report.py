"""What became of each adapter file of a prompt, in the words of the console, the infotext and the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.hosts.loading.patched import Patched

SHOWN = 3  # modules a warning names
LOST = "The patches of {count} were taken out, as another extension may do, before the weights were patched"


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
    note: str = ""  # about what of it had to be guessed
    remark: str = ""  # about how its modules were matched with the base's weights
    patched: Patched | None = None  # what the weights got; until the image is made, `applied` is what they are to get
    said: str = ""  # on the console, of an image whose weights got something else than the prompt asks for

    @property
    def complete(self) -> bool:
        """Whether all of the file was applied."""
        return not self.refused and not self.reasons and not self.lost

    @property
    def differs(self) -> bool:
        """Whether the weights got something else than the prompt asks for."""
        return bool(self.lost) or (self.patched is not None and self.patched.remark() != "")

    @property
    def lost(self) -> set[str]:
        """Modules whose patches something else in the web UI took out before the weights were patched."""
        return self.patched.lost() if self.patched is not None and self.patched.is_known else set()

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
        note = f". {self.note[0].upper()}{self.note[1:]}." if self.note else ""
        return f"{self.summary()}, {self.seconds:.2f} s{note}"

    def summary(self) -> str:
        """For the infotext, the same for the same image: `my-file: lokr, 354 of 354 modules`."""
        if self.refused:
            return f"{self.name}: not applied"
        applied, remarks = self.applied, [self.remark]
        if self.patched is not None and self.patched.is_known:
            applied -= len(self.patched.without_effect() - self.reasons.keys())
            remarks.append(self.patched.remark())
        return ", ".join(
            [f"{self.name}: {self.algorithms}", f"{applied} of {self.total} modules", *filter(None, remarks)]
        )

    def warning(self, shown: int = SHOWN) -> str | None:
        """What was not applied and why, the first `shown` modules by name, and what was guessed; None: neither."""
        if self.refused:
            return self.line()
        sentences = [self.summary()]
        if self.reasons:
            missed = [f"{module}: {reason}" for module, reason in list(self.reasons.items())[:shown]]
            more = len(self.reasons) - len(missed)
            sentences.append(f"Not applied: {'; '.join(missed)}{f'; and {more} more' if more else ''}")
        if self.lost:
            sentences.append(LOST.format(count=_modules(len(self.lost))))
        if self.note:
            sentences.append(f"{self.note[0].upper()}{self.note[1:]}")
        return f"{'. '.join(sentences)}." if len(sentences) > 1 else None


def _modules(count: int) -> str:
    return f"{count} module" if count == 1 else f"{count} modules"


def algorithms(file: AdapterFile) -> str:
    """The algorithms of a file in words, the most frequent first."""
    counts = Counter(
        file.algorithm_of(name) + (" with DoRA" if {"dora_scale", "lora_magnitude_vector"} & set(suffixes) else "")
        for name, suffixes in file.modules.items()
    )
    return " + ".join(name for name, _ in counts.most_common())
