"""What one adapter layer is to be: its target's shape and every option that concerns it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter_lab.algorithms import OwnOptions
from adapter_lab.errors import ConfigError

Shape = tuple[int, ...]


@dataclass
class LayerSpec(OwnOptions):
    """One adapter layer before it exists. `shape` is (out, in), (out, in, kh, kw) or (n,) for a norm.

    Options that belong to one algorithm are those of its row.
    """

    name: str
    kind: str  # "linear", "conv", "norm"
    shape: Shape
    has_bias: bool
    algo: str
    dim: int = 4
    alpha: float = 1.0
    tucker: bool = False
    init: str = "usual"
    dora: str = ""  # "", "output", "input"
    use_scalar: bool = False
    rs_lora: bool = False
    dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0

    @property
    def kernel(self) -> Shape:
        """(kh, kw) of a convolution, else ()."""
        return self.shape[2:]

    @property
    def uses_tucker(self) -> bool:
        """Whether this module is Tucker-decomposed: a 1x1 convolution or a linear layer never is."""
        return self.tucker and any(size != 1 for size in self.kernel)

    @property
    def scale(self) -> float:
        """What the update is multiplied by; alpha 0 counts as dim, as every reader of files takes it."""
        return (self.alpha or self.dim) / (math.sqrt(self.dim) if self.rs_lora else self.dim)


def factorization(size: int, factor: int) -> tuple[int, int]:
    """(m, n) with m n = size and m <= n, as LyCORIS splits a dimension.

    m is `factor` (or its counterpart) where that divides size, else the largest divisor up to `factor`; -1 asks for
    the pair closest to a square, 0 and 1 for (1, size).
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = size if factor < 0 else factor
    m = max(m for m in range(1, math.isqrt(size) + 1) if size % m == 0 and m <= max(limit, 1))
    return m, size // m


def butterfly_blocks(size: int, dim: int) -> tuple[int, int] | None:
    """(block size, count) for BOFT: the largest even block up to `dim` whose count is a power of two; None if none."""
    for block in range(min(dim, size) // 2 * 2, 1, -2):
        count, rest = divmod(size, block)
        if rest == 0 and count & (count - 1) == 0:
            return block, count
    return None


def smallest_butterfly_dim(size: int) -> int | None:
    """The smallest dim with which BOFT fits `size` outputs; None where they are odd in number."""
    if size % 2:
        return None
    return 2 * (size // (size & -size))


def impossible(names: list[str], what: str, remedy: str) -> ConfigError:
    """One error for all modules that cannot have what was asked for."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ConfigError(f"{what} for module {names[0]}{more}; {remedy}")
