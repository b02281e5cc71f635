"""Trained, saved and read back by `adapters`, every adapter gives the weight its forward used, at every strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.base import Adapter, patch, patch_bias
from adapter_lab.adapters.file import adapter_from_tensors
from adapter_lab.training.forwards import AdapterLayer, LayerSpec
from adapter_lab.training.forwards.norm import NormLayer
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

STRENGTHS = (0.0, 0.6, -0.5, 2.0)


def train(layer: AdapterLayer, x: Tensor, steps: int = 8) -> tuple[float, float]:
    """Loss before and after a few steps towards a fixed target; every gradient must be finite and reach a parameter."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        target = layer.base(x)
        target = target + 0.5 * target.std() * torch.randn(target.shape, generator=generator).to(target)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = (run(layer, x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert any(bool(parameter.grad.any()) for parameter in layer.parameters())  # type: ignore[union-attr]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], float((run(layer, x) - target).square().mean().detach())


def read_back(layer: AdapterLayer) -> Adapter:
    return adapter_from_tensors(layer.file_tensors())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_training_lowers_the_loss_and_the_saved_adapter_is_what_was_trained(
    case: str, layer_type: str, bias: bool
) -> None:
    module = base_module(layer_type, bias, torch.float32)
    layer = adapter_layer(CASES[case], module, torch.float32, size=0.1)
    x = input_for(layer_type, torch.float32)
    before, after = train(layer, x)
    assert after < before
    assert patched_error(layer, x, 1.0, run(layer, x)) < 1e-5


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_the_saved_adapter_is_exact_at_every_strength(case: str, layer_type: str, bias: bool) -> None:
    module: Any = base_module(layer_type, bias)
    layer = adapter_layer(CASES[case], module)
    x = input_for(layer_type)
    with torch.no_grad():
        assert patched_error(layer, x, 1.0, run(layer, x)) < 1e-12
        weight, changed_bias = rebuilt(layer)
        for strength in STRENGTHS:
            between = module.weight + strength * (weight - module.weight)
            shifted = None if module.bias is None else module.bias + strength * (changed_bias - module.bias)
            assert patched_error(layer, x, strength, base_operation(module, x, between, shifted)) < 1e-12


def patched_error(layer: AdapterLayer, x: Tensor, strength: float, expected: Tensor) -> float:
    """Relative error of the base patched with the saved adapter against an expected output."""
    module: Any = layer.base
    adapter = read_back(layer)
    weight, bias = patch(module.weight, adapter, strength), patch_bias(module.bias, adapter, strength)
    found = base_operation(module, x, weight, bias)
    return float(((found - expected).norm() / expected.norm()).detach())


class OwnRMSNorm(torch.nn.Module):
    """As models of text bring it along: Zhang and Sennrich 2019."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(size)), 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


NORMS: dict[str, tuple[Callable[[], Any], bool]] = {
    "layer norm": (lambda: torch.nn.LayerNorm(16), True),
    "layer norm without bias": (lambda: torch.nn.LayerNorm(16, bias=False), False),
    "group norm": (lambda: torch.nn.GroupNorm(4, 16), True),
    "group norm without bias": (lambda: torch.nn.GroupNorm(4, 16), False),
    "rms norm": (lambda: torch.nn.RMSNorm(16, eps=1e-2), False),
    "rms norm of another's": (lambda: OwnRMSNorm(16), False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norm_layers_train_and_save_exactly(kind: str) -> None:
    torch.manual_seed(0)
    make, bias = NORMS[kind]
    module = make()
    if kind == "group norm without bias":
        module.bias = None
    for parameter in module.requires_grad_(False).parameters():
        parameter.normal_()
    module = module.double()
    spec = LayerSpec("n", "norm", (16,), bias, "norm")
    layer = NormLayer(spec, module, NormLayer.initial_values(spec, lambda: module.weight)).double()
    x = torch.randn(3, 16, 5, dtype=torch.float64).transpose(1, 1 if kind.startswith("group") else 2).contiguous()
    torch.testing.assert_close(run(layer, x), module(x))
    before, after = train(layer, x)
    assert after < before
    adapter = read_back(layer)
    trained = run(layer, x)
    module.weight.copy_(patch(module.weight, adapter, 1.0))
    if bias:
        module.bias.copy_(patch_bias(module.bias, adapter, 1.0))
    torch.testing.assert_close(module(x), trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.3, 16.0, 1000.0 / 3])
def test_rounding_a_file_to_half_precision_does_not_round_alpha(alpha: float, dtype: torch.dtype) -> None:
    module = base_module("linear", False, torch.float32)
    for options in (
        {"algo": "lora", "dim": 3, "rs_lora": True},
        {"algo": "glora", "dim": 3},
        {"algo": "loha", "dim": 3},
    ):
        layer = adapter_layer({**options, "alpha": alpha}, module, torch.float32)
        tensors = layer.file_tensors()
        assert tensors["alpha"].to(dtype).float() == tensors["alpha"]
        folded = adapter_from_tensors(tensors).delta(module.weight)  # type: ignore[arg-type]
        weight, _ = rebuilt(layer)
        torch.testing.assert_close(folded, (weight - module.weight).detach(), rtol=1e-4, atol=1e-5)


def test_a_tiny_constraint_survives_a_half_precision_file() -> None:
    module: Any = base_module("linear", False, torch.float32)
    for constraint in (1e-3, 1e-5, 1e-9):
        layer = adapter_layer({"algo": "diag-oft", "dim": 4, "constraint": constraint}, module, torch.float32)
        half = {suffix: tensor.half() for suffix, tensor in layer.file_tensors().items()}
        found = adapter_from_tensors(half).delta(module.weight)
        expected = (rebuilt(layer)[0] - module.weight).detach()
        assert (found - expected).norm() < 5e-3 * expected.norm() + 1e-7


def test_loading_what_was_saved_restores_the_trained_output() -> None:
    for case, options in CASES.items():
        for layer_type in ("linear", "conv 3x3"):
            module = base_module(layer_type, True)
            layer, other = adapter_layer(options, module), adapter_layer(options, module, seed=11)
            other.load_file_tensors(layer.file_tensors())
            x = input_for(layer_type)
            torch.testing.assert_close(run(other, x), run(layer, x), msg=f"{case} on {layer_type}")
