"""The patched weight of every algorithm reproduces the trained network's forward, and strength is linear in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.adapters.base import FileOptions, patch, patch_, patch_bias
from adapter_lab.adapters.file import adapter_from_tensors
from tests.adapters.lycoris_modules import CASES, LAYERS, file_tensors, inputs, trained

STRENGTHS = (0.0, 0.6, -0.5, 1.0, 2.0)


def run(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's operation with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", CASES)
def test_patched_weight_reproduces_the_trained_forward_at_any_strength(name: str, kind: str, bias: bool) -> None:
    case = CASES[name]
    torch.manual_seed(3)
    layer = LAYERS[kind](bias)
    base = layer.weight.detach().double()
    base_bias = layer.bias.detach().double() if bias else None
    module = trained(case, layer)
    x = inputs(layer)
    with torch.no_grad():
        trained_output = module(x.float() if case.single else x).double()
    untouched = run(layer, x, base, base_bias)
    assert (trained_output - untouched).norm() > 1e-3 * untouched.norm()

    options = FileOptions(lycoris_rs_lora=bool(case.options.get("rs_lora")))
    adapter = adapter_from_tensors(file_tensors(module), options)
    assert adapter.fits(tuple(base.shape))
    # LyCORIS rounds the alpha it stores for rs_lora to float32.
    tolerance = 1e-5 if case.single else 1e-7 if case.options.get("rs_lora") else 1e-12
    for strength in STRENGTHS:
        weight = patch(base, adapter, strength)
        output = run(layer, x, weight, patch_bias(base_bias, adapter, strength))
        expected = untouched + strength * (trained_output - untouched)
        assert (output - expected).norm() <= tolerance * expected.norm(), strength
        in_place = base.clone()
        patch_(in_place, adapter, strength)
        assert (in_place - weight).norm() <= 1e-14 * weight.norm()
    assert torch.equal(patch(base, adapter, 0.0), base)
    single = patch(base.float(), adapter, 1.0)
    assert single.dtype == torch.float32
    assert (single.double() - patch(base, adapter, 1.0)).norm() <= 1e-5 * base.norm()
