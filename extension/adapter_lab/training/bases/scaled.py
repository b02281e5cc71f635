"""Files that keep their weights in 8 bits with a scale beside each: read as the values they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases.sources import Weights

# What programs call the scale of `X.weight`, and what marks such a file (ComfyUI).
SCALES = ("scale_weight", "weight_scale")
BESIDE = (*SCALES, "scale_input", "input_scale", "comfy_quant")
MARKER = "scaled_fp8"
FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)


class ScaledWeights:
    """Weights of which some are numbers of 8 bits times a scale."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.path: Path = weights.path
        self.metadata: Mapping[str, str] = weights.metadata
        everything = weights.shapes
        self._shapes = {key: shape for key, shape in everything.items() if not _is_beside(key)}
        self._scales = {
            key: scale
            for key in self._shapes
            for name in SCALES
            if key.endswith(".weight") and (scale := f"{key.removesuffix('weight')}{name}") in everything
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by name, without what belongs to their storage."""
        return dict(self._shapes)

    def read(self, key: str) -> Tensor:
        """One whole tensor; fp32 where it is scaled."""
        stored = self._weights.read(key)
        if key not in self._scales:
            return stored
        if stored.dtype not in FLOATS:
            raise FileFormatError(
                f"{self.path} keeps {key} as {str(stored.dtype).removeprefix('torch.')} with a scale, not read "
                "here; use the file in bf16, fp16 or fp8, and precision.base_weights to save memory."
            )
        scale = self._weights.read(self._scales[key]).float()
        return stored.float() * scale.view(-1, *[1] * (stored.ndim - 1))

    def sample(self, key: str) -> bytes:
        """The first bytes of a tensor, with its scale's."""
        scale = self._scales.get(key)
        return self._weights.sample(key) + (self._weights.sample(scale) if scale else b"")


def unscaled(weights: Weights) -> Weights:
    """The same weights, as values where they are stored with scales."""
    return ScaledWeights(weights) if any(_is_beside(key) for key in weights.shapes) else weights


def _is_beside(key: str) -> bool:
    return key.rpartition(".")[2] in (*BESIDE, MARKER)
