"""Answers as JSON that every browser reads."""

from __future__ import annotations

import json
from typing import Any

from adapter_lab.runs.events import plain


def as_json(value: Any) -> bytes:
    """A value as JSON in UTF-8; what JSON has no number for, such as NaN in a file that was read, is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")
