"""Chunked weights equal whole ones, nothing of a weight's size outlives the layer, and 8-bit base weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards import butterfly, khatri_rao, kronecker, merged, rotation
from adapter_lab.training.forwards.oftv2 import OFTv2Layer
from adapter_lab.training.forwards.quantized import QuantizedLayer, compress, quantize
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


def with_gradients(layer: Any, x: Tensor) -> list[Tensor]:
    """Output, dL/dx and every parameter's gradient."""
    x = x.clone().requires_grad_()
    out = run(layer, x)
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], cotangent)]


@pytest.mark.parametrize("layer_type", ["linear", "strided"])
@pytest.mark.parametrize("tokens", [2, 60])
@pytest.mark.parametrize("case", CASES)
def test_weights_made_in_chunks_equal_whole_ones(
    case: str, tokens: int, layer_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = adapter_layer(CASES[case], base_module(layer_type, True))
    x = input_for(layer_type, tokens=tokens)
    expected = with_gradients(layer, x)
    for module in (butterfly, khatri_rao, kronecker, merged, rotation):
        monkeypatch.setattr(module, "chunk_size", lambda bytes_each, device, multiple=1: multiple)
    for found, wanted in zip(with_gradients(layer, x), expected):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass(case: str, layer_type: str) -> None:
    module = base_module(layer_type, True, torch.float32)
    weight: Any = module.weight
    layer = adapter_layer(CASES[case], module, torch.float32)
    x = input_for(layer_type, torch.float32, tokens=2)
    if layer_type != "linear":
        x = x[:1, :, :3, :3]
    x.requires_grad_()
    own = {parameter.data_ptr() for parameter in [weight, *layer.parameters()]}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = run(layer, x)
    # Parameters times their scale are small copies of parameters; a LoKr or LoHa case here may be as large as W.
    factors = [*layer.parameters(), *layer.file_tensors().values()]
    if isinstance(layer, OFTv2Layer):  # whose blocks are written out from their upper triangles
        factors.append(layer.turn())
    largest = max([x.numel(), out.numel(), *(factor.numel() for factor in factors)])
    assert max((tensor.numel() for tensor in kept), default=0) <= largest
    if largest < weight.numel():
        assert all(tensor.numel() < weight.numel() for tensor in kept)


@pytest.mark.parametrize("storage", ["fp8", "int8"])
def test_8_bit_weights_are_right_within_their_precision_and_exact_in_bf16_steps(storage: str) -> None:
    weight = torch.randn(64, 320, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 64)[:, None]
    weight[3] = 0
    codes, scale = quantize(weight, storage)
    found = codes.float() * scale
    largest = weight.abs().amax(1, keepdim=True)
    if storage == "fp8":
        # Half of the last of 4 significant bits, or half of the smallest subnormal step.
        assert ((found - weight).abs() <= weight.abs() * 2**-4 + largest * 2**-17).all()
    else:
        assert ((found - weight).abs() <= largest * (1 + 2**-7) / 254).all()
    assert (found[3] == 0).all()
    assert torch.equal(scale.bfloat16().float(), scale)
    if storage == "fp8":
        assert torch.equal(found.bfloat16().float(), found)


@pytest.mark.parametrize(("layer_type", "storage"), [("linear", "fp8"), ("strided", "int8")])
@pytest.mark.parametrize("case", CASES)
def test_adapters_on_8_bit_weights_equal_those_on_the_same_weights_stored_plainly(
    case: str, layer_type: str, storage: str
) -> None:
    plain: Any = base_module(layer_type, True)
    stored = QuantizedLayer(plain, storage)
    plain.weight.copy_(stored.dequantize(torch.float64))
    x = input_for(layer_type)
    torch.testing.assert_close(stored(x), plain(x))
    layer = adapter_layer(CASES[case], plain)
    expected = with_gradients(layer, x)
    layer._base[0] = stored
    layer.__dict__.pop("_operation")  # which was made at the first use
    for found, wanted in zip(with_gradients(layer, x), expected):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("storage", ["fp8", "int8"])
def test_compressing_a_model_halves_bf16_weights_and_keeps_its_outputs(storage: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, padding_mode="circular"),
        nn.GroupNorm(8, 64),
        nn.Flatten(),
        nn.Linear(64 * 16, 256),
        nn.Linear(256, 4),
    ).to(torch.bfloat16)
    model.requires_grad_(False)
    x = torch.randn(2, 8, 8, 8, dtype=torch.bfloat16)
    expected = model(x)
    before = size_of(model)
    replaced = compress(model, storage)
    assert [type(layer) for layer in replaced] == [nn.Conv2d, nn.Linear]  # the large ones
    assert size_of(model) < 0.53 * before
    out = model(x)
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < (0.08 if storage == "fp8" else 0.03)
    again = model.to(torch.bfloat16).to(torch.float32).to(torch.bfloat16)(x)
    assert torch.equal(again, out)  # conversions of the model leave stored bytes alone


def size_of(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_a_compressed_layer_keeps_no_dequantised_weight_and_gives_the_inputs_gradient(layer_type: str) -> None:
    plain: Any = base_module(layer_type, True)
    stored = QuantizedLayer(plain, "int8")
    plain.weight.copy_(stored.dequantize(torch.float64))
    x = input_for(layer_type).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = stored(x)
    assert not kept
    (found,) = torch.autograd.grad(out.square().sum(), [x])
    (wanted,) = torch.autograd.grad(base_operation(plain, x, plain.weight, plain.bias).square().sum(), [x])
    torch.testing.assert_close(found, wanted)


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be stored as 'int4'; choose one of fp8, int8"):
        QuantizedLayer(nn.Linear(4, 4), "int4")


def test_circular_padding_reaches_the_adapters_path() -> None:
    module: Any = nn.Conv2d(16, 24, 3, padding=1, padding_mode="circular").double().requires_grad_(False)
    layer = adapter_layer(CASES["lora"], module)
    weight, _ = rebuilt(layer)
    x = input_for("conv 3x3")
    around = nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    torch.testing.assert_close(run(layer, x), nn.functional.conv2d(around, weight, module.bias))
