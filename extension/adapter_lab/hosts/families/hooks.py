"""Functions of a web UI that ours stand in for, each put back when the web UI reloads its scripts."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from typing import Any

# The function of the web UI that one of ours stands in for: an attribute of ours, so that it is known again after a
# reload has forgotten everything else.
ORIGINAL = "_adapter_lab_original"


class Hooks:
    """Replacements made and not yet undone; `messages` says what a web UI lacked, one sentence each."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """How many are made."""
        return len(self._undo)

    def replace(self, owner: Any, attribute: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
        """Put `make(original)` in the place of a function of a module, class or object; False if it has none.

        Where another extension has wrapped ours in the meantime, ours stays inside and only calls the original.
        """
        original = getattr(owner, attribute, None)
        if not callable(original):
            self.messages.append(f"{_name_of(owner)} has no function {attribute}, so what needs it is off.")
            return False
        while hasattr(original, ORIGINAL):  # ours from before a reload
            original = getattr(original, ORIGINAL)
        current = make(original)

        @functools.wraps(original)
        def hook(*args: Any, **kwargs: Any) -> Any:
            return current(*args, **kwargs)

        def undo() -> None:
            nonlocal current
            current = original
            if getattr(owner, attribute, None) is hook:
                setattr(owner, attribute, original)

        setattr(hook, ORIGINAL, original)
        setattr(owner, attribute, hook)
        self._undo.append(undo)
        return True

    def set_item(self, mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        """Register `value` under a key of our own in a table of the web UI."""
        mapping[key] = value

        def undo() -> None:
            mapping.pop(key, None)

        self._undo.append(undo)

    def insert(self, items: list[Any], value: Any, position: int = 0) -> None:
        """Put `value` into a list of the web UI."""
        items.insert(position, value)

        def undo() -> None:
            items[:] = [item for item in items if item is not value]

        self._undo.append(undo)

    def undo(self) -> None:
        """Put everything back, the last first; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
        self.messages.clear()


def _name_of(owner: Any) -> str:
    return getattr(owner, "__name__", None) or type(owner).__name__
