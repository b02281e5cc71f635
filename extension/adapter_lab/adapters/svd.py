"""The nearest matrix of low rank, at a rank or at an error bound (Eckart and Young 1936).

Few ranks of a large matrix are found by randomised subspace iteration (Halko, Martinsson and Tropp 2011), many by the
eigenvectors of the smaller Gram matrix in fp64. Either way the error is what was measured, never an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adapter_lab.errors import AdapterLabError

OVERSAMPLING, PASSES = 16, 4
# Numbers of singular vectors that are tried where an error bound and not a rank is given.
TRIED_WIDTHS = (48, 160)
# Beyond this share of all singular vectors the exact decomposition is quicker.
RANDOMISED_SHARE = 1 / 4
# Squared singular values below this share of the largest are rounding errors of fp32.
ZERO = 1e-13
CHUNK = 4096


@dataclass(frozen=True)
class RankRule:
    """How many ranks a module keeps: as few as `error` allows, and never more than `rank`; 0 stands for no such limit.

    error: ||D - D'|| / ||D|| in the Frobenius norm. conv_rank: `rank` of kernels larger than 1x1; 0: the same.
    """

    rank: int = 0
    conv_rank: int = 0
    error: float = 0.0

    @classmethod
    def of(
        cls,
        rank: int | None = None,
        conv_rank: int | None = None,
        error: float | None = None,
        energy: float | None = None,
    ) -> RankRule:
        """The rule these options mean; energy is the share of the squared singular values to keep.

        Raises AdapterLabError for options that contradict each other or mean nothing.
        """
        if error is not None and energy is not None:
            raise AdapterLabError("Give an error bound or an energy to keep, not both: energy is 1 - error squared.")
        for name, number in (("rank", rank), ("conv-rank", conv_rank)):
            if number is not None and number < 1:
                raise AdapterLabError(f"The {name} must be 1 or more, but is {number}.")
        for name, share in (("error", error), ("energy", energy)):
            if share is not None and not 0 < share < 1:
                raise AdapterLabError(f"The {name} must be between 0 and 1, but is {share:g}.")
        if energy is not None:
            error = (1 - energy) ** 0.5
        return cls(rank or 0, conv_rank or 0, error or 0.0)

    def __bool__(self) -> bool:
        return bool(self.rank or self.conv_rank or self.error)

    def limit(self, shape: tuple[int, ...]) -> int:
        """The largest rank of a weight of this shape; 0 for no limit."""
        return self.conv_rank or self.rank if any(size > 1 for size in shape[2:]) else self.rank


NO_LIMIT = RankRule()


@torch.inference_mode()
def low_rank(matrix: Tensor, limit: int, error: float) -> tuple[Tensor, Tensor]:
    """The nearest product up down: up (m, r), down (r, n), both of equal norm.

    matrix: (m, n). r is the smallest rank with a relative error of at most `error`, at most `limit` (0: no limit), and
    never more than the matrix has.
    """
    if matrix.shape[0] > matrix.shape[1]:
        down, up = low_rank(matrix.T, limit, error)
        return up.T, down.T
    matrix = matrix.float()
    most = min(limit or len(matrix), len(matrix))
    allowed = error**2 * float(matrix.double().square().sum()) if error else 0.0
    for width in _widths(most, len(matrix), bool(error)):
        vectors, squares, rest = _leading(matrix, width)
        tails = rest + squares.flip(0).cumsum(0).flip(0)  # what is left out with 0, 1, ... vectors
        rank = int((tails > allowed).sum()) if error else most
        if rank < len(squares) or width >= most:
            break
    rank = max(1, min(rank, most, int((squares > ZERO * squares[0]).sum())))
    root = squares[:rank].clamp_min(torch.finfo(torch.float32).tiny).pow(0.25).float()
    kept = vectors[:, :rank]
    return kept * root, (kept.T @ matrix) / root[:, None]


def _widths(most: int, size: int, by_error: bool) -> Iterator[int]:
    """Numbers of singular vectors to try in turn."""
    if by_error:
        yield from (width for width in TRIED_WIDTHS if width < min(most, size * RANDOMISED_SHARE))
    yield most


def _leading(matrix: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """The `width` leading left singular vectors (m, width), their squared singular values, and the square of the rest.

    The squares are in fp64; `width` may be exceeded.
    """
    if width > len(matrix) * RANDOMISED_SHARE:
        squares, vectors = torch.linalg.eigh(_gram(matrix))
        return vectors.flip(1).float(), squares.flip(0).clamp_min(0), 0.0
    generator = torch.Generator().manual_seed(0)
    width += OVERSAMPLING
    basis = matrix @ torch.randn(matrix.shape[1], width, generator=generator)
    for _ in range(PASSES):
        basis = matrix @ torch.linalg.qr(matrix.T @ torch.linalg.qr(basis)[0])[0]
    basis = torch.linalg.qr(basis)[0]
    inside = basis.T @ matrix
    squares, turn = torch.linalg.eigh(_gram(inside))
    rest = float(torch.addmm(matrix, basis, inside, alpha=-1).double().square().sum())
    return basis @ turn.flip(1).float(), squares.flip(0).clamp_min(0), rest


def _gram(matrix: Tensor) -> Tensor:
    """matrix matrix^T in fp64, some columns at a time: their copies in fp64 stay small."""
    total = torch.zeros(len(matrix), len(matrix), dtype=torch.float64)
    for columns in matrix.split(CHUNK, dim=1):
        columns = columns.double()
        total.addmm_(columns, columns.T)
    return total
