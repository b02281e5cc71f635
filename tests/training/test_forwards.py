"""The forward of every algorithm and its gradients equal those of the rebuilt weight W', in float64."""

from __future__ import annotations

import pytest
import torch

from tests.support.adapter_cases import (
    CASES,
    LAYER_TYPES,
    adapter_layer,
    base_module,
    base_operation,
    input_for,
    rebuilt,
    run,
)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    # Some forwards take another way with few tokens than with many.
    ("layer_type", "tokens"),
    [("linear", 3), ("linear", 10), ("linear", 60), *((kind, 0) for kind in LAYER_TYPES if kind != "linear")],
)
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_equal_those_of_the_rebuilt_weight(
    case: str, layer_type: str, tokens: int, bias: bool
) -> None:
    module = base_module(layer_type, bias)
    layer = adapter_layer(CASES[case], module)
    x = input_for(layer_type, tokens=tokens).requires_grad_()
    parameters = list(layer.parameters())
    out = run(layer, x)
    weight, changed_bias = rebuilt(layer)
    expected = base_operation(module, x, weight, changed_bias)
    assert relative(out, expected) < 1e-12
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    found = torch.autograd.grad(out, [x, *parameters], cotangent)
    wanted = torch.autograd.grad(expected, [x, *parameters], cotangent)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    errors = {name: relative(one, other) for name, one, other in zip(names, found, wanted)}
    assert max(errors.values()) < 1e-10, errors


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))
