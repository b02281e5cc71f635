"""The `<lora:...>` tags of a prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

TAG = re.compile(r"<(?P<network>lora|lyco):(?P<inside>[^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True)
class Tag:
    """One `<lora:name:strength:...>`; `arguments` is all that follows the name, as it was written."""

    name: str
    arguments: tuple[str, ...] = ("1",)
    network: str = "lora"

    def __str__(self) -> str:
        return f"<{self.network}:{':'.join((self.name, *self.arguments))}>"

    def at(self, strength: float) -> Tag:
        """The same at another strength, of text encoder and UNet alike; other arguments are kept."""
        named = [text for text in self.arguments if "=" in text and not text.startswith(("te=", "unet="))]
        rank = [text for text in self.arguments if "=" not in text][2:3]
        strengths = [f"{strength:g}"] * (3 if rank else 1)
        return replace(self, arguments=(*(strengths[:2] if rank else strengths), *rank, *named))


def tags(prompt: str) -> list[Tag]:
    """The tags in a prompt, in order."""
    return [_tag(found) for found in TAG.finditer(prompt)]


def rewrite(prompt: str, change: Callable[[Tag], Tag | None]) -> str:
    """The prompt with each tag changed; None removes it, and a space that then stands twice or at the end."""

    def changed(found: re.Match[str]) -> str:
        tag = _tag(found)
        new = change(tag)
        return found[0] if new == tag else "" if new is None else str(new)

    result = TAG.sub(changed, prompt)
    return result if len(TAG.findall(result)) == len(TAG.findall(prompt)) else re.sub(r"  +", " ", result).strip(" ")


def _tag(found: re.Match[str]) -> Tag:
    name, *arguments = found["inside"].split(":")
    return Tag(name, tuple(arguments), found["network"])
