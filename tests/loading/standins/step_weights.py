"""Stand-in of sd-webui-loractl: strengths are 1 at load time, and are asked for again and again by its properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Strength = Callable[[int], float]  # by the sampling step


@contextmanager
def step_weights(network: Any, step: Callable[[], int]) -> Iterator[dict[str, Strength]]:
    """The extension in A1111; the strengths of files by their names in the prompt. network: A1111's module."""
    strengths: dict[str, Strength] = {}

    def made(part: str) -> property:
        def get(record: Any) -> float:
            own = strengths.get(record.name)
            return getattr(record, f"_{part}") if own is None else own(step())

        return property(get, lambda record, value: setattr(record, f"_{part}", value))

    network.Network.te_multiplier, network.Network.unet_multiplier = made("te"), made("unet")
    try:
        yield strengths
    finally:
        del network.Network.te_multiplier, network.Network.unet_multiplier
