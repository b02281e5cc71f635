"""LoKr: the Kronecker product of a small and a large factor. Edalati et al. 2022 (KronA), LyCORIS.

dW = scale * w1 kron w2, w1 (a, c), w2 (b, d[, kh, kw]), W (a b, c d[, kh, kw]); either factor may itself be low-rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, same_size, scale_of
from adapter_lab.adapters.lora import low_rank, tucker


@dataclass(eq=False)
class LoKr(Adapter):
    """w1 whole, or w1_a (a, r) w1_b (r, c). w2 whole, or w2_a (b, r) w2_b (r, d * kernel), or Tucker: w2_a (r, b),
    w2_b (r, d), t2 (r, r, kh, kw)."""

    algorithm: ClassVar[str] = "lokr"
    uses_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = (
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_t2",
    )
    shared: ClassVar[tuple[str, ...]] = (*Adapter.shared, "scalar")

    w1: Tensor | tuple[Tensor, Tensor]
    w2: Tensor | tuple[Tensor, Tensor]
    t2: Tensor | None
    scale: float

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return any(name in shapes for name in cls.suffixes)

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        whole = [factor for factor in ("lokr_w1", "lokr_w2") if factor in shapes]
        unread = {f"{factor}{half}" for factor in whole for half in ("_a", "_b")}
        return super().uses(shapes) - unread - ({"lokr_t2"} if "lokr_w2" in whole else set())

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> LoKr:
        w1 = tensors["lokr_w1"] if "lokr_w1" in tensors else (tensors["lokr_w1_a"], tensors["lokr_w1_b"])
        w2 = tensors["lokr_w2"] if "lokr_w2" in tensors else (tensors["lokr_w2_a"], tensors["lokr_w2_b"])
        t2 = tensors.get("lokr_t2")
        if not _consistent(w1, None, 2) or not _consistent(w2, t2, 4):
            shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in cls.suffixes if name in tensors)
            raise ValueError(f"the factors are {shapes}")
        ranks = [factor[1].shape[0] for factor in (w2, w1) if isinstance(factor, tuple)]
        if ranks:
            scale = scale_of(tensors, ranks[0])
        else:  # both factors whole: alpha is not used
            scale = scale_of({name: value for name, value in tensors.items() if name == "scalar"}, 1)
            if options.lycoris_rs_lora and "alpha" in tensors:
                # LyCORIS trains with scale sqrt(dim) here, and writes alpha = dim^1.5.
                scale *= float(tensors["alpha"]) ** (1 / 3)
        return cls(w1, w2, t2 if isinstance(w2, tuple) else None, scale)

    def fits(self, shape: tuple[int, ...]) -> bool:
        out1, in1 = _whole_size(self.w1, None)
        out2, in2 = _whole_size(self.w2, self.t2)
        return same_size(shape, out1 * out2, in1 * in2)

    def describe(self) -> dict[str, Any]:
        ranks = [factor[1].shape[0] for factor in (self.w2, self.w1) if isinstance(factor, tuple)]
        found: dict[str, Any] = {"factor": list(_whole_size(self.w1, None)), "tucker": self.t2 is not None}
        found |= {"full_matrix": not ranks, "decompose_both": isinstance(self.w1, tuple)}
        return {"dim": ranks[0], "alpha": self.scale * ranks[0], **found} if ranks else found

    def delta(self, base: Tensor) -> Tensor:
        return kronecker(self._first(base) * self.scale, self._second(base), base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if not weight.is_contiguous():
            super().add_delta(weight, strength)
            return
        w1, w2 = broadcast(self._first(weight), self._second(weight))
        (a, _, c), (_, b, _, d) = w1.shape[:3], w2.shape[:4]
        weight.view(a, b, c, d, *w2.shape[4:]).addcmul_(w1, w2, value=strength * self.scale)

    def _first(self, base: Tensor) -> Tensor:
        """w1 as a whole: (a, c)."""
        if isinstance(self.w1, Tensor):
            return like(self.w1, base)
        return like(self.w1[0], base) @ like(self.w1[1], base)

    def _second(self, base: Tensor) -> Tensor:
        """w2 as a whole: (b, d) or (b, d, kh, kw)."""
        if isinstance(self.w2, Tensor):
            return like(self.w2, base)
        w2_a, w2_b = like(self.w2[0], base), like(self.w2[1], base)
        if self.t2 is not None:
            return tucker(like(self.t2, base), w2_a.T, w2_b)
        kernel = base.shape[2:]
        return low_rank(w2_a, w2_b, None, (w2_a.shape[0], w2_b[0].numel() // kernel.numel(), *kernel))


def _consistent(factor: Tensor | tuple[Tensor, Tensor], core: Tensor | None, axes: int) -> bool:
    """Whether a factor has at most `axes` axes, and its parts one rank."""
    if isinstance(factor, Tensor):
        return 2 <= factor.dim() <= axes
    first, second = factor
    if first.dim() != 2 or second.dim() < 2:
        return False
    if core is None:
        return first.shape[1] == second.shape[0]
    return core.dim() == 4 and (first.shape[0], second.shape[0]) == tuple(core.shape[:2])


def _whole_size(factor: Tensor | tuple[Tensor, Tensor], core: Tensor | None) -> tuple[int, int]:
    """Rows, and elements per row, of a factor."""
    if isinstance(factor, Tensor):
        return factor.shape[0], factor[0].numel()
    if core is not None:
        return factor[0].shape[1], factor[1].shape[1] * core[0, 0].numel()
    return factor[0].shape[0], factor[1][0].numel()


def kronecker(w1: Tensor, w2: Tensor, shape: tuple[int, ...]) -> Tensor:
    """w1 kron w2 over the first two axes, the kernel of w2 kept: (a, c), (b, d, ...) -> (a b, c d, ...)."""
    # One broadcast product that is already in the order of the result, so any strides of w2 are fine.
    first, second = broadcast(w1, w2)
    return (first * second).reshape(shape)


def broadcast(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """w1 as (a, 1, c, 1, ...) and w2 as (1, b, 1, d, ...), whose product is w1 kron w2 as (a, b, c, d, ...)."""
    a, c = w1.shape
    return w1.reshape(a, 1, c, *[1] * (w2.dim() - 1)), w2[None, :, None]
