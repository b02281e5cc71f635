"""What a person sees while a run goes on."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

from adapter_lab.config import TrainConfig, default_of, sections, settings, type_of
from adapter_lab.config_file import literal


def settings_summary(config: TrainConfig) -> str:
    """The settings in effect: the main ones, and all that differ from their default."""
    owners = dict(sections())
    lines = ["Settings (main ones and those that differ from their default):"]
    for section, name, entry in settings():
        value = getattr(getattr(config, section), name)
        changed = value != default_of(entry)
        if changed or (entry.metadata["basic"] and value not in ("", [], 0)):
            kind = type_of(owners[section], name)
            shown = f"{len(value)} given" if name in ("rules", "sources") else literal(value, kind)
            lines.append(f"  {section}.{name} = {shown}" + ("" if changed else "  (default)"))
    return "\n".join(lines)


class Console:
    """Shows the events of a run; the steps themselves are shown by the training loop's own bar."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar: tqdm[Any] | None = None
        self._bar_of = ""

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event, if a person wants to know of it."""
        kind = event["event"]
        if kind == "preparing":
            self._progress(event["what"], event["done"], event["total"])
        elif kind in LINES:
            self.close()
            text = LINES[kind].format_map(_Shown(event))
            if text:
                tqdm.write(text, file=self._stream)

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar_of != what:
            self.close()
            self._bar, self._bar_of = tqdm(total=total, desc=what, disable=None, leave=False), what
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar of a preparing phase."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


LINES = {
    "started": "Run folder: {folder}",
    "resumed": "Resumed at step {step}.",
    "dataset": "{text}",
    "cached": "Encoded {made} {what} ({found} were in the cache) in {seconds} s.",
    "note": "{message}",
    "warning": "Warning: {message}",
    "saved": "Saved {path}",
    "sample": "Sample images of step {step}: {paths}",
    "validation": "Validation loss at step {step}: {loss:.4f}",
}


class _Shown(dict[str, Any]):
    """Values of an event; one that is missing shows as "?" rather than ending a run."""

    def __missing__(self, key: str) -> Any:
        return _Unknown()


class _Unknown(str):
    def __new__(cls) -> _Unknown:
        return super().__new__(cls, "?")

    def __format__(self, format_spec: str) -> str:
        return str(self)
