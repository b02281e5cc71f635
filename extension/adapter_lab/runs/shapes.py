"""What an event must hold to count: what reads a log is never handed a text for a number, or a list for a text."""

from __future__ import annotations

from typing import Any

from adapter_lab import jsonio

Texts = list[str]
# Kind -> (what it must hold, what it may hold); others of its values are for nobody but people, and of any type.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "started": ({"time": float}, {}),
    "resumed": ({"step": int}, {}),
    "preparing": ({"what": str, "done": int, "total": int}, {}),
    "training": ({"total_steps": int}, {}),
    "sample": ({"paths": Texts}, {"step": int, "prompts": Texts}),
    "saved": ({"path": str}, {"step": int, "removed": Texts}),
    "renamed": ({"path": str, "old": str}, {}),
    "state": ({"step": int}, {}),
    "pictures": ({"pictures": list[dict[str, Any]]}, {"total": int | None}),
    "dataset": ({"report": dict[str, Any]}, {}),
    "validation": ({"step": int, "loss": float}, {}),
    "prompts": ({"prompts": Texts}, {}),
    "note": ({}, {"message": str}),
    "warning": ({}, {"message": str}),
    "finished": ({}, {"reason": str, "peak_bytes": int | None}),
    "failed": ({}, {"message": str}),
    "stopped": ({}, {"message": str}),
}


def is_event(value: Any) -> bool:
    """Whether a line of a log holds an event that is what its kind says; steps are told by the columns they fill."""
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return False
    needed, more = SHAPES.get(value["event"], ({}, {}))
    try:
        if "time" in value:
            jsonio.typed(float, value["time"])
        for name, kind in needed.items():
            jsonio.typed(kind, value.get(name), name)
        for name, kind in more.items():
            if name in value:
                jsonio.typed(kind, value[name], name)
    except ValueError:
        return False
    return True
