"""The forward of every algorithm and its gradients equal those of the rebuilt weight W', in float64."""

from __future__ import annotations

import pytest
import torch

from adapter_lab.training.forwards import boft
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


@pytest.mark.parametrize("case", CASES)
def test_one_picture_may_lie_channel_by_channel(case: str) -> None:
    """As diffusers hands it to a linear proj_in: with one image, flattening its tokens makes no copy."""
    layer = adapter_layer(CASES[case], base_module("linear", True))
    plain = input_for("linear", tokens=60).flatten(0, -2)[None].contiguous().requires_grad_()
    by_channel = plain.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert not by_channel.is_contiguous()
    cotangent = torch.randn(run(layer, plain).shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(5))
    wanted, found = (
        torch.autograd.grad(run(layer, x), [x, *layer.parameters()], cotangent.transpose(1, 2).contiguous().mT)
        for x in (plain, by_channel)
    )
    assert max(relative(one, other) for one, other in zip(found, wanted)) < 1e-10


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("boft")])
def test_boft_is_the_same_on_outputs_and_with_the_rotated_weight(
    case: str, layer_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = adapter_layer(CASES[case], base_module(layer_type, True))
    x = input_for(layer_type).requires_grad_()
    found = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(boft, "TOKENS_PER_COLUMN", threshold)
        out = run(layer, x)
        found.append([out, *torch.autograd.grad(out.sin().sum(), [x, *layer.parameters()])])
    for on_outputs, with_weight in zip(*found):
        assert relative(on_outputs, with_weight) < 1e-12
