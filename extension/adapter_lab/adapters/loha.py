"""LoHa: the Hadamard product of two low-rank matrices. Hyeon-Woo et al. 2021 (FedPara), LyCORIS.

dW = scale * (w1_a w1_b) * (w2_a w2_b), each half Tucker-decomposed when it has a core t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from adapter_lab.adapters.base import Adapter, FileOptions, Shapes, Tensors, like, row_blocks, same_size, scale_of
from adapter_lab.adapters.lora import tucker_rows


@dataclass(eq=False)
class LoHa(Adapter):
    """Plain: w_a (out, r), w_b (r, in * kernel). Tucker: w_a (r, out), w_b (r, in), t (r, r, kh, kw)."""

    algorithm: ClassVar[str] = "loha"
    uses_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    shared: ClassVar[tuple[str, ...]] = (*Adapter.shared, "scalar")

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None
    t2: Tensor | None
    scale: float

    @classmethod
    def reads(cls, shapes: Shapes) -> bool:
        return "hada_w1_a" in shapes or "hada_w2_a" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> LoHa:
        w1_a, w1_b, w2_a, w2_b = (tensors[name] for name in cls.suffixes[:4])
        t1, t2 = tensors.get("hada_t1"), tensors.get("hada_t2")
        if (t1 is None) != (t2 is None):
            raise ValueError("there is only one of hada_t1 and hada_t2")
        ranks = (w1_a.shape[0 if t1 is not None else 1], w1_b.shape[0], *(t1.shape[:2] if t1 is not None else ()))
        if (
            w1_a.shape != w2_a.shape
            or w1_b.shape != w2_b.shape
            or w1_a.dim() != 2
            or w1_b.dim() < 2
            or len({*ranks}) > 1
        ):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in (w1_a, w1_b, w2_a, w2_b))
            raise ValueError(f"the factors are {shapes}")
        if t1 is not None and t2 is not None and (t1.shape != t2.shape or t1.dim() != 4):
            raise ValueError(f"the cores are {list(t1.shape)} and {list(t2.shape)}")
        return cls(w1_a, w1_b, w2_a, w2_b, t1, t2, scale_of(tensors, w1_b.shape[0]))

    def fits(self, shape: tuple[int, ...]) -> bool:
        if self.t1 is None:
            return same_size(shape, self.w1_a.shape[0], self.w1_b[0].numel())
        return same_size(shape, self.w1_a.shape[1], self.w1_b.shape[1] * self.t1[0, 0].numel())

    def describe(self) -> dict[str, Any]:
        rank = self.w1_b.shape[0]
        return {"dim": rank, "alpha": self.scale * rank, "tucker": self.t1 is not None}

    def delta(self, base: Tensor) -> Tensor:
        (up1, down1), (up2, down2) = self._halves(base)
        return (up1 * self.scale @ down1).mul_(up2 @ down2).reshape(base.shape)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        if not weight.is_contiguous():
            super().add_delta(weight, strength)
            return
        (up1, down1), (up2, down2) = self._halves(weight)
        rows = weight.view(weight.shape[0], -1)
        for block in row_blocks(rows):
            rows[block].addcmul_(up1[block] @ down1, up2[block] @ down2, value=strength * self.scale)

    def _halves(self, base: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both factors of the Hadamard product as pairs of matrices (out, r), (r, in * kernel)."""
        return _half(self.w1_a, self.w1_b, self.t1, base), _half(self.w2_a, self.w2_b, self.t2, base)


def _half(w_a: Tensor, w_b: Tensor, core: Tensor | None, base: Tensor) -> tuple[Tensor, Tensor]:
    w_a, w_b = like(w_a, base), like(w_b, base).flatten(1)
    return (w_a, w_b) if core is None else (w_a.T, tucker_rows(like(core, base), w_b))
