"""Patching a weight in place takes little memory beside it, whatever the algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from adapter_lab.adapters.base import patch_
from adapter_lab.adapters.file import adapter_from_tensors
from tests.adapters.random_adapter import ALGORITHMS, random_tensors

MOST_LAYERS = 2.0  # tensors of the weight's size, at one time
SHAPES = ((1280, 1280), (640, 640, 3, 3))


def tucker(algorithm: str, out: int, inputs: int, rank: int = 16) -> dict[str, Tensor]:
    """Tensors of a 3x3 convolution with a Tucker core."""
    core = torch.randn(rank, rank, 3, 3)
    if algorithm == "lora":
        up, down = torch.randn(out, rank, 1, 1), torch.randn(rank, inputs, 1, 1)
        return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": core}
    if algorithm == "loha":
        halves = {f"hada_w{i}_{side}": torch.randn(rank, n) for i in "12" for side, n in (("a", out), ("b", inputs))}
        return {**halves, "hada_t1": core, "hada_t2": core}
    factors = {"lokr_w2_a": torch.randn(rank, out // 4), "lokr_w2_b": torch.randn(rank, inputs // 4)}
    return {"lokr_w1": torch.randn(4, 4), "lokr_t2": core, **factors}


def wrapped(algorithm: str, shape: tuple[int, ...], **more: Tensor) -> dict[str, Tensor]:
    return {**random_tensors(algorithm, shape, rank=16), **more}


def cases(shape: tuple[int, ...]) -> dict[str, Callable[[], dict[str, Tensor]]]:
    out, inputs, *kernel = shape
    ones = [1] * len(kernel)
    found: dict[str, Callable[[], dict[str, Tensor]]] = {
        algorithm: lambda algorithm=algorithm: wrapped(algorithm, shape)  # type: ignore[misc]
        for algorithm in ALGORITHMS
    }
    found["dora over lokr"] = lambda: wrapped("lokr", shape, dora_scale=torch.ones(out, 1, *ones))
    found["dora per input"] = lambda: wrapped("lora", shape, dora_scale=torch.ones(1, inputs, *ones))
    found["rescaled diag-oft"] = lambda: wrapped("diag-oft", shape, rescale=torch.ones(out, 1, *ones))
    for algorithm in ("lora", "loha", "lokr") if kernel else ():
        found[f"{algorithm} tucker"] = lambda algorithm=algorithm: tucker(algorithm, out, inputs)  # type: ignore[misc]
    return found


def peak_bytes(action: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator held at once during `action`, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        action()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    present = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        present += event.nbytes()
        peak = max(peak, present)
    return peak


def test_the_measure_sees_what_is_allocated() -> None:
    weight = torch.zeros(1000, 1000)
    assert 1.9 * 4e6 <= peak_bytes(lambda: weight.add_(weight + (weight + 1))) <= 2.1 * 4e6


@pytest.mark.parametrize(("shape", "case"), [(shape, case) for shape in SHAPES for case in cases(shape)])
def test_a_weight_is_patched_with_at_most_two_layers_of_further_memory(shape: tuple[int, ...], case: str) -> None:
    torch.manual_seed(0)
    tensors = {suffix: t.half() if t.dim() else t for suffix, t in cases(shape)[case]().items()}
    adapter, weight = adapter_from_tensors(tensors), torch.randn(shape)
    before = weight.clone()
    peak = peak_bytes(lambda: patch_(weight, adapter, 0.5))
    assert peak <= MOST_LAYERS * 4 * math.prod(shape), f"{peak / (4 * math.prod(shape)):.2f} layers"
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("case", cases(SHAPES[0]))
def test_a_weight_that_is_a_transposed_view_is_patched_all_the_same(case: str) -> None:
    torch.manual_seed(0)
    shape = (24, 16)
    adapter = adapter_from_tensors(cases(shape)[case]())
    weight = torch.randn(shape, dtype=torch.float64)
    view = weight.T.contiguous().T
    patch_(weight, adapter, -0.5)
    patch_(view, adapter, -0.5)
    assert torch.allclose(view, weight, rtol=0, atol=1e-12)
