"""Dropout leaves out the share it says, keeps the mean, and acts in training only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.support.adapter_cases import CASES, adapter_layer, base_module, input_for, run

LOW_RANK = ["lora", "lora tucker", "loha", "lokr", "lokr factor 2 tucker", "lokr decomposed", "lokr whole", "glora"]


@pytest.mark.parametrize("layer_type", ["linear", "conv 3x3"])
@pytest.mark.parametrize("case", LOW_RANK)
@pytest.mark.parametrize("kind", ["dropout", "rank_dropout"])
def test_dropout_keeps_the_mean_of_the_update_and_is_off_in_evaluation(kind: str, case: str, layer_type: str) -> None:
    module = base_module(layer_type, True)
    layer = adapter_layer({**CASES[case], kind: 0.25}, module)
    x = input_for(layer_type, tokens=6)
    with torch.no_grad():
        base = module(x)
        layer.eval()
        update = run(layer, x) - base
        layer.train()
        torch.manual_seed(0)
        draws = torch.stack([run(layer, x) - base for _ in range(1500)])
    spread = draws.std(0) / 1500**0.5
    assert bool((draws.std(0) > 0).all())
    assert ((draws.mean(0) - update).abs() / spread).square().mean() < 2  # a chi-square per value around 1


@pytest.mark.parametrize("layer_type", ["linear", "conv 3x3"])
@pytest.mark.parametrize("case", LOW_RANK)
def test_dropout_leaves_out_its_share_of_the_updates_values(case: str, layer_type: str) -> None:
    module = base_module(layer_type, True)
    layer = adapter_layer({**CASES[case], "dropout": 0.25}, module)
    x = input_for(layer_type, tokens=300)
    with torch.no_grad():
        update = run(layer.eval(), x) - module(x)
        dropped = run(layer.train(), x) - module(x)
    kept = dropped.abs() > 1e-12
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped[kept], update[kept] / 0.75)


def test_rank_dropout_leaves_out_its_share_of_the_ranks() -> None:
    module = base_module("linear", False)
    layer = adapter_layer({"algo": "lora", "dim": 1000, "alpha": 1.0, "rank_dropout": 0.25}, module)
    up = layer.parameters_in_use()[1]
    kept = (up != 0).all(0)
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(up[:, kept], (layer.up * layer.spec.scale / 0.75)[:, kept])


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("lora dora", "loha dora")])
def test_module_dropout_leaves_the_whole_module_out_at_its_share(case: str) -> None:
    module = base_module("linear", True)
    layer = adapter_layer({**CASES[case], "module_dropout": 0.25}, module)
    x = input_for("linear")
    base = module(x)
    torch.manual_seed(1)
    with torch.no_grad():
        left_out = sum(bool(torch.equal(run(layer, x), base)) for _ in range(400))
        assert left_out / 400 == pytest.approx(0.25, abs=0.07)
        layer.eval()
        assert not any(torch.equal(run(layer, x), base) for _ in range(20))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["dropout", "rank_dropout", "module_dropout"])
def test_extreme_shares_keep_all_or_nothing_without_nan(kind: str, share: float) -> None:
    module = base_module("linear", True)
    layer = adapter_layer({**CASES["lora"], kind: share}, module)
    x = input_for("linear")
    expected = module(x) if share else run(layer.eval(), x)
    torch.testing.assert_close(run(layer.train(), x), expected)


@pytest.mark.parametrize("kind", ["dropout", "rank_dropout", "module_dropout"])
def test_gradient_checkpointing_recomputes_with_the_same_dropout(kind: str) -> None:
    module = base_module("linear", True)
    layer = adapter_layer({**CASES["lora"], kind: 0.5}, module)
    x = input_for("linear").requires_grad_()

    def gradients(through_checkpoint: bool) -> list[Tensor]:
        torch.manual_seed(6)
        out = checkpoint(run, layer, x, use_reentrant=False) if through_checkpoint else run(layer, x)
        wanted = [x, *layer.parameters()]
        found = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(wanted, found)]

    for found, expected in zip(gradients(True), gradients(False)):
        torch.testing.assert_close(found, expected)
