"""diag-OFT: W' = rescale * R^T W with a block-diagonal rotation R, run on the base's output before its bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris, representable
from adapter_lab.training.forwards.rotation import cayley_delta, generators, rotated
from adapter_lab.training.forwards.spec import LayerSpec, Shape, factorization, impossible


class OrthogonalLayer(AdapterLayer):
    """What diag-OFT and BOFT share: blocks whose skew part generates rotations, and a rescale (out, 1[, 1, 1])."""

    file_keys: ClassVar[Mapping[str, str]] = {"blocks": "oft_blocks", "rescale": "rescale"}

    blocks: nn.Parameter
    rescale: nn.Parameter

    @property
    def bound(self) -> float:
        """Largest norm of all generators together; 0: none. A file's alpha is this divided by the outputs."""
        return self.spec.constraint * self.spec.shape[0]

    def turns(self) -> Tensor:
        """R - I of every block, in the parameters' dtype."""
        return cayley_delta(self.blocks, self.bound)

    def file_tensors(self) -> dict[str, Tensor]:
        found = super().file_tensors()
        # Blocks already within the bound, and a bound rounded up: then no reader's rounding of alpha matters.
        if self.bound > 0:
            found["oft_blocks"] = generators(self.blocks.detach(), self.bound) / 2
        return found

    def _alpha_in_file(self) -> tuple[float, float]:
        return representable(self.spec.constraint * (1 + 1e-6), up=True), 1.0

    def _scale_in_file(self, tensors: Mapping[str, Tensor]) -> float:
        return self.spec.scale

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        bound = float(tensors["alpha"]) * self.spec.shape[0] if "alpha" in tensors else 0.0
        blocks = tensors["oft_blocks"]
        if bound > 0:
            blocks = generators(blocks.to(self.blocks), bound) / 2
        super().load_file_tensors({**tensors, "oft_blocks": blocks})


class DiagOFTLayer(OrthogonalLayer):
    """blocks (k, b, b) with out = k b."""

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        size, count = factorization(spec.shape[0], spec.dim)
        if size < 2:
            what = f"diag-OFT with dim {spec.dim} gives blocks of one channel, which cannot be rotated,"
            raise impossible([spec.name], what, f"choose a dim that divides its {spec.shape[0]} outputs.")
        shapes: dict[str, Shape] = {"blocks": (count, size, size)}
        if spec.rescaled:
            shapes["rescale"] = (spec.shape[0], *[1] * (len(spec.shape) - 1))
        return shapes

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().DiagOFTModule

    def adapted(self, x: Tensor) -> Tensor:
        return rotated(x, self.operation, self.turns(), self.rescale.flatten() if self.spec.rescaled else None)
