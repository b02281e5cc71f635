"""Random draws that depend on nothing but the values they are seeded with.

Only `random.Random.random()` is used: Python promises its sequence for a given seed on every version and platform,
which it does not for `shuffle` or `choice`. Seeds go through SHA-256, so neither PYTHONHASHSEED nor the order in which
draws are asked for matters.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of random draws named by `names`, such as (seed, epoch, repeat, image)."""

    def __init__(self, *names: object) -> None:
        digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode("utf-8", "surrogateescape")).digest()
        self._random = random.Random(int.from_bytes(digest[:16], "big"))

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()

    def chance(self, probability: float) -> bool:
        """True with the given probability; one draw is used whatever the probability."""
        return self._random.random() < probability

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self._random.random() * count)

    def choice(self, values: Sequence[T]) -> T:
        """One of `values`, each equally likely."""
        return values[self.below(len(values))]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """`values` in a random order, each order equally likely (Fisher-Yates)."""
        result = list(values)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result
