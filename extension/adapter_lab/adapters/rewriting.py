"""The same change of a weight in another form of the same algorithm, for programs that read only that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from adapter_lab.adapters.base import MAGNITUDES, Adapter
from adapter_lab.adapters.boft import BOFT
from adapter_lab.adapters.dora import DoRA
from adapter_lab.adapters.glora import GLoRA
from adapter_lab.adapters.loha import LoHa
from adapter_lab.adapters.lokr import LoKr
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.oft import DiagOFT
from adapter_lab.adapters.summed import Summed

A = TypeVar("A", bound=Adapter)


def without_core(adapter: A) -> A:
    """A Tucker-decomposed LoRA, LoHa or LoKr with its core multiplied into the input side: the same rank, exactly.

    Others are returned as they are. The new factor is fp32 at least.
    """
    if isinstance(adapter, LoRA) and adapter.mid is not None:
        return replace(adapter, down=_absorbed(adapter.mid, adapter.down), mid=None)
    if isinstance(adapter, LoHa) and adapter.t1 is not None and adapter.t2 is not None:
        first, second = _absorbed(adapter.t1, adapter.w1_b), _absorbed(adapter.t2, adapter.w2_b)
        plain = replace(adapter, w1_a=adapter.w1_a.T, w2_a=adapter.w2_a.T, t1=None, t2=None)
        return replace(plain, w1_b=first.flatten(1), w2_b=second.flatten(1))
    if isinstance(adapter, LoKr) and adapter.t2 is not None and isinstance(adapter.w2, tuple):
        w2_a, w2_b = adapter.w2
        return replace(adapter, w2=(w2_a.T, _absorbed(adapter.t2, w2_b).flatten(1)), t2=None)
    return adapter


def _absorbed(core: Tensor, down: Tensor) -> Tensor:
    """core (p, q, kh, kw) times down (q, in): (p, in, kh, kw)."""
    dtype = torch.promote_types(down.dtype, torch.float32)
    return torch.einsum("pqhw,qi->pihw", core.to(dtype), down.flatten(1).to(dtype))


def plain_tensors(adapter: Adapter, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A module's tensors under LyCORIS's suffixes, so that nothing but themselves is needed to read them.

    alpha is there and alpha / rank is the whole scale: `scalar`, rs_lora and PEFT's configuration are folded into it.
    `tensors`: as the file has them, by suffix; `shape`: of the weight.
    """
    if isinstance(adapter, Summed):
        rest = {suffix: tensor for suffix, tensor in tensors.items() if suffix != "diff"}
        return {**plain_tensors(adapter.inner, rest, shape), "diff": tensors["diff"]}
    if isinstance(adapter, DoRA):
        rest = {suffix: tensor for suffix, tensor in tensors.items() if suffix not in MAGNITUDES}
        return {**plain_tensors(adapter.inner, rest, shape), "dora_scale": _magnitude(adapter, shape)}
    found = {suffix: tensor for suffix, tensor in tensors.items() if suffix != "scalar"}
    if isinstance(adapter, (DiagOFT, BOFT)):
        return {"alpha": torch.zeros((), dtype=adapter.blocks.dtype), **found}
    if isinstance(adapter, LoKr) and isinstance(adapter.w1, Tensor) and isinstance(adapter.w2, Tensor):
        # Readers ignore alpha here.
        whole = found if adapter.scale == 1 else {**found, "lokr_w1": scaled(adapter.w1, adapter.scale)}
        return {**whole, "alpha": found.get("alpha", torch.tensor(1.0, dtype=adapter.w1.dtype))}
    if isinstance(adapter, GLoRA):
        newer = adapter.oriented(shape) or adapter
        named = found if newer is adapter else older_glora(found)
        return {**named, "alpha": _alpha(tensors, newer.scale * newer.a2.shape[0])}
    if isinstance(adapter, (LoRA, LoHa, LoKr)):
        return {**found, "alpha": _alpha(tensors, adapter.describe()["alpha"])}
    return found


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """`tensor` times a number, computed in fp32 or fp64 and rounded to its own dtype, or to fp16 from 8-bit ones."""
    return stored_like(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor, tensor)


def stored_like(tensor: Tensor, original: Tensor) -> Tensor:
    """`tensor` in the dtype of the factor it takes the place of; 8 bits would be too few for other numbers."""
    return tensor.to(original.dtype if original.element_size() > 1 else torch.float16)


OLDER_GLORA = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}


def older_glora(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GLoRA's tensors with their names as LyCORIS before 4 had them, or the other way round."""
    return {OLDER_GLORA.get(suffix, suffix): tensor for suffix, tensor in tensors.items()}


def _alpha(tensors: Mapping[str, Tensor], alpha: float) -> Tensor:
    """alpha as the file has it where that is its value, else in fp32, exact enough beside factors of any kind."""
    stored = tensors.get("alpha")
    return stored if stored is not None and float(stored) == alpha else torch.tensor(alpha, dtype=torch.float32)


def _magnitude(adapter: DoRA, shape: tuple[int, ...]) -> Tensor:
    ones = [1] * (len(shape) - 2)
    return adapter.magnitude.reshape((-1, 1, *ones) if adapter.on_output else (1, -1, *ones))
