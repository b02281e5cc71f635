"""Half precision keeps small updates: an update far below the rounding of the output still acts on average."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.adapter_cases import (
    CASES,
    IN,
    adapter_layer,
    base_module,
    base_operation,
    input_for,
    rebuilt,
    run,
)

# Those whose update is computed beside the base's output. OFT and IA3 turn and scale the rounded output itself.
BESIDE = [case for case in CASES if not case.startswith(("diag-oft", "ia3"))]


def in_float64(layer: Any) -> Any:
    """The same layer on the same (half-precision) base weights, in float64."""
    found = copy.copy(layer)
    found.__dict__ = {**layer.__dict__, "_base": [copy.deepcopy(layer.base).double()]}
    found._parameters = {name: parameter.detach().double() for name, parameter in layer._parameters.items()}
    return found


def exact_weight(layer: Any) -> Tensor:
    """W' in float64."""
    return rebuilt(in_float64(layer))[0].detach()


@torch.no_grad()
def shrink(layer: Any, size: float) -> None:
    """Change parameters until |W' - W| is `size` |W|, and DoRA's magnitudes until they change nothing more."""
    weight = layer.base.weight.double()
    scaled = {"loha": ("w1_a",), "full": ("diff",), "boft": ("blocks",)}.get(layer.spec.algo, layer.folded_into)
    for name, parameter in layer.named_parameters():
        if name == "rescale":
            parameter.fill_(1.0)
    for _ in range(12):
        if layer.spec.dora:
            undecomposed = in_float64(layer)
            undecomposed.spec = replace(layer.spec, dora="")
            direction = rebuilt(undecomposed)[0]
            layer.magnitude.copy_(direction.norm(dim=1 if layer.spec.dora == "output" else 0, keepdim=True))
        ratio = float((exact_weight(layer) - weight).norm() / weight.norm()) / size
        for name, parameter in layer.named_parameters():
            if name in scaled:
                parameter.div_(ratio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", BESIDE)
def test_half_precision_keeps_an_update_of_a_thousandth_of_the_weight(case: str, dtype: torch.dtype) -> None:
    # The update is found again from many outputs: where a sum is rounded once, rounding is noise and averages out.
    # LyCORIS's default forward loses 75 % of such an update in bf16, adding two rounded outputs loses 48 %.
    module: Any = base_module("linear", False, torch.float32).to(dtype)
    layer = adapter_layer(CASES[case], module, torch.float32)
    shrink(layer, 1e-3)
    x = torch.randn(60_000, IN, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        out = run(layer, x)
    assert out.dtype == dtype
    difference = out.double() - x.double() @ module.weight.double().T
    found = torch.linalg.lstsq(x.double(), difference).solution.T
    expected = exact_weight(layer) - module.weight.double()
    assert (found - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(
    ("layer_type", "base_dtype"),
    [("linear", torch.bfloat16), ("conv 1x1", torch.bfloat16), ("strided", torch.float32)],
)
@pytest.mark.parametrize("case", CASES)
def test_under_autocast_outputs_and_gradients_are_right_to_its_precision(
    case: str, layer_type: str, base_dtype: torch.dtype
) -> None:
    module = base_module(layer_type, True, torch.float32).to(base_dtype)
    layer = adapter_layer(CASES[case], module, torch.float32, size=0.1)
    x = input_for(layer_type, torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(layer, x)
    assert out.dtype == torch.bfloat16
    names = [name for name, _ in layer.named_parameters()]
    cotangent = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = torch.autograd.grad(out, [x, *layer.parameters()], cotangent.to(out.dtype))
    assert [gradient.dtype for gradient in found] == [torch.float32] * len(found)
    double = in_float64(layer)
    leaves = {name: double._parameters[name].requires_grad_() for name in names}
    x64 = x.detach().double().requires_grad_()
    weight, bias = rebuilt(double)
    expected = base_operation(double.base, x64, weight, bias)
    assert (out - expected).norm() / expected.norm() < 0.01
    wanted = torch.autograd.grad(expected, [x64, *leaves.values()], cotangent)
    # A gain's or scalar's gradient is a sum of many values of either sign, which mostly cancel.
    rounding = 0.004 * float((expected * cotangent).detach().norm())
    for name, one, other in zip(["x", *names], found, wanted):
        assert (one - other).norm() <= 0.03 * other.norm() + (rounding if one.dim() == 0 else 0), name
