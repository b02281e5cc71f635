"""What a study logs beside its trainings."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_lab.runs.events import Event
from adapter_lab.runs.state import RunState


class StudyLog(RunState):
    """A study's own events: of the failures among them, only the study's own ends it."""

    def feed(self, events: Iterable[Event]) -> None:
        """Take further events into account."""
        super().feed(_as_note(event) if _is_said(event) else event for event in events)


def _is_said(event: Event) -> bool:
    return event["event"] in ("skipped", "dropped") or (event["event"] == "failed" and "training" in event)


def _as_note(event: Event) -> Event:
    about = event.get("training") or event.get("variant")
    return {**event, "event": "note", "message": f"{about} {WORDS[event['event']]}: {event.get('message', '')}"}


WORDS = {"failed": "failed", "skipped": "is left out", "dropped": "is out of the race"}
