"""What an adapter is: the weight W' it gives for a base weight W, and what strength means.

Strength m always gives W + m (W' - W), where W' is the weight the trained network used in its forward: 0 is the base,
1 what was trained, linear between, also for DoRA, BOFT and rescaled OFT.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

# Numbers of a weight that are computed at a time: on a CPU, and on devices that are slow to start and fast to run.
BLOCK_ON_CPU, BLOCK = 2**18, 2**22

# Magnitudes of DoRA, in LyCORIS's and in PEFT's spelling.
MAGNITUDES = ("dora_scale", "lora_magnitude_vector")

Tensors = Mapping[str, Tensor]  # one module's tensors by the suffix of their key, such as "lora_up.weight"
Shapes = Mapping[str, "tuple[int, ...]"]


@dataclass(frozen=True)
class FileOptions:
    """What a module's tensors alone do not tell; read from a file's metadata by `options.read_options`."""

    # LyCORIS with rs_lora writes alpha for GLoRA as if the scale were alpha / dim, and cannot express the scale of a
    # LoKr whose two factors are whole.
    lycoris_rs_lora: bool = False
    # OFTv2: terms of the Cayley-Neumann series, 5 in PEFT and OneTrainer unless set; 0 for the exact Cayley transform.
    cayley_terms: int = 5
    # OFTv2 on convolutions: PEFT merges W R^T, OneTrainer uses W R.
    peft: bool = False


class Adapter(ABC):
    """One module's adapter. A new algorithm overrides `weight` or `delta`, whichever is its natural form.

    Tensors are kept as they came from the file; the computation runs in the dtype and on the device of `base`, which
    should be fp32 or fp64.
    """

    algorithm: ClassVar[str]
    # Suffixes of the keys it reads.
    suffixes: ClassVar[tuple[str, ...]]
    # Further ones that other algorithms have too. `alpha` says nothing where there is no scale, but is no loss either.
    shared: ClassVar[tuple[str, ...]] = ("alpha", "diff_b", *MAGNITUDES)
    # Whether W' - W depends on W, so that it cannot be told from the file alone.
    uses_base: ClassVar[bool] = True

    bias_delta: Tensor | None = None

    @classmethod
    @abstractmethod
    def reads(cls, shapes: Shapes) -> bool:
        """Whether a module with tensors of these suffixes and shapes belongs to this algorithm."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Tensors, options: FileOptions) -> Adapter:
        """The adapter these tensors describe; raises KeyError(suffix) or ValueError(reason) if they cannot be one."""

    @classmethod
    def uses(cls, shapes: Shapes) -> set[str]:
        """The suffixes, of those of a module it reads, whose tensors have a part in W' or b'."""
        unread = MAGNITUDES[1:] if MAGNITUDES[0] in shapes else ()
        return {suffix for suffix in shapes if suffix in (*cls.suffixes, *cls.shared) and suffix not in unread}

    @abstractmethod
    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can change a weight of this shape: (out, in), (out, in, kh, kw) or (n,)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Its options as the tensors show them, such as dim, alpha, tucker, factor."""

    def delta(self, base: Tensor) -> Tensor:
        """W' - W for base weight W."""
        return self.weight(base) - base

    def weight(self, base: Tensor) -> Tensor:
        """W': the weight the trained network used, for base weight W."""
        return base + self.delta(base)

    def add_delta(self, weight: Tensor, strength: float) -> None:
        """Turn W, in fp32 or fp64, into W + m (W' - W) in place.

        Override it where that takes less than a further tensor of the weight's size, or fewer passes.
        """
        weight.add_(self.delta(weight), alpha=strength)

    def bias(self, base: Tensor | None) -> Tensor | None:
        """b': the bias the trained network used, for base bias b (None: the layer has none)."""
        if self.bias_delta is None:
            return base
        return self.bias_delta if base is None else base + like(self.bias_delta, base)


def like(tensor: Tensor, base: Tensor) -> Tensor:
    """`tensor` in the dtype and on the device of `base`."""
    return tensor.to(device=base.device, dtype=base.dtype)


def row_blocks(weight: Tensor, unit: int = 1) -> Iterator[slice]:
    """Slices of the first axis, counted in `unit` rows: each is small beside the weight and stays in a CPU's cache."""
    row = max(1, weight[0].numel()) * unit
    step = max(1, (BLOCK_ON_CPU if weight.device.type == "cpu" else BLOCK) // row)
    for first in range(0, weight.shape[0] // unit, step):
        yield slice(first, first + step)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype weights of `dtype` are patched in: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def patch(base: Tensor, adapter: Adapter, strength: float) -> Tensor:
    """W + m (W' - W) in the dtype of `base`; half-precision bases are patched in fp32 and rounded once."""
    if strength == 0:
        return base
    weight = base.to(working_dtype(base.dtype))
    return torch.add(weight, adapter.delta(weight), alpha=strength).to(base.dtype)


def patch_(weight: Tensor, adapter: Adapter, strength: float) -> None:
    """Turn W, in fp32 or fp64, into W + m (W' - W) in place."""
    if strength != 0:
        adapter.add_delta(weight, strength)


def patch_bias(base: Tensor | None, adapter: Adapter, strength: float) -> Tensor | None:
    """b + m (b' - b), rounded as `patch` does; None if the layer has no bias and the adapter brings none."""
    if adapter.bias_delta is None or strength == 0:
        return base
    if base is None:
        return adapter.bias_delta * strength
    bias = base.to(working_dtype(base.dtype), copy=True)
    patch_bias_(bias, adapter, strength)
    return bias.to(base.dtype)


def patch_bias_(bias: Tensor, adapter: Adapter, strength: float) -> None:
    """Turn b, in fp32 or fp64, into b + m (b' - b) in place."""
    if adapter.bias_delta is not None:
        bias.add_(like(adapter.bias_delta, bias).reshape(bias.shape), alpha=strength)


def scale_of(tensors: Tensors, dim: int) -> float:
    """alpha / dim, times the `scalar` older files keep apart; without alpha it is taken as dim.

    An alpha of 0 is a scale of 0 for every web UI and merging script, although trainers that are given 0 train with
    alpha as dim: they also write that.
    """
    if not dim:
        raise ValueError("the rank is zero")
    alpha = float(tensors["alpha"]) if "alpha" in tensors else dim
    scalar = float(tensors["scalar"]) if "scalar" in tensors else 1.0
    return scalar * alpha / dim


def same_size(shape: tuple[int, ...], out: int, rest: int) -> bool:
    """Whether a weight of `shape` has `out` rows of `rest` elements each."""
    return len(shape) >= 2 and shape[0] == out and math.prod(shape[1:]) == rest
