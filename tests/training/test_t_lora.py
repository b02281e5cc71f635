"""T-LoRA: which ranks take part by how much of a sample is noise, its start, its file, and a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.training.loop import train
from tests.support.adapter_cases import LAYER_TYPES, adapter_layer, base_module, input_for, run
from tests.support.training import losses_of, tiny_config

OPTIONS = {"algo": "t-lora", "dim": 4, "alpha": 2.0}
# Noise, the ranks that take part of 4: at least half, and all where there is none.
RANKS = [(0.0, 4), (0.3, 3), (0.75, 2), (1.0, 2)]


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("start", [False, True], ids=["common", "orthogonal"])
def test_each_sample_has_the_ranks_of_its_noise(layer_type: str, start: bool) -> None:
    module = base_module(layer_type, True)
    layer = adapter_layer({**OPTIONS, "init": "orthogonal" if start else "usual"}, module).train()
    x = input_for(layer_type)
    for noise, ranks in RANKS:
        layer.noise_shares = lambda noise=noise: torch.tensor([noise, 0.0], dtype=torch.float64)
        layer.zero_grad()
        found = run(layer, x)
        found[0].square().sum().backward()
        down, up = dict(layer.named_parameters())["down"], dict(layer.named_parameters())["up"]
        assert not down.grad[ranks:].any() and not up.grad[:, ranks:].any()
        assert (down.grad[:ranks].flatten(1).norm(dim=1) > 0).all()
        # The other sample, without noise, has all of them: as the layer has where nobody says.
        layer.noise_shares = lambda: None
        torch.testing.assert_close(found[1], run(layer, x)[1])
        with torch.no_grad():
            rest_down, rest_up = down[ranks:].clone(), up[:, ranks:].clone()
            down[ranks:], up[:, ranks:] = 0, 0
            if start:
                kept = layer.start_down.clone()
                layer.start_down[ranks:] = 0
            torch.testing.assert_close(found[0], run(layer, x)[0])
            down[ranks:], up[:, ranks:] = rest_down, rest_up
            if start:
                layer.start_down.copy_(kept)


def test_pictures_are_drawn_with_all_ranks() -> None:
    layer = adapter_layer(OPTIONS, base_module("linear", True)).eval()
    x = input_for("linear")
    whole = run(layer, x)
    layer.noise_shares = lambda: torch.ones(2, dtype=torch.float64)
    assert torch.equal(run(layer, x), whole)


def test_ranks_by_power_and_least_rank() -> None:
    layer = adapter_layer({**OPTIONS, "dim": 8, "min_rank": 0, "rank_power": 2.0}, base_module("linear", True)).train()
    layer.noise_shares = lambda: torch.tensor([0.0, 0.5, 1.0])
    assert layer.mask(input_for("linear")).sum(dim=1).tolist() == [8, 2, 0]


def test_an_orthogonal_start_changes_nothing_and_its_rows_are_orthonormal() -> None:
    module = base_module("linear", True)
    layer = adapter_layer({**OPTIONS, "init": "orthogonal"}, module, size=0.0)
    with torch.no_grad():
        layer.down.copy_(layer.start_down)
        layer.up.copy_(layer.start_up)
    x = input_for("linear")
    torch.testing.assert_close(run(layer, x), module(x))
    for rows in (layer.start_down, layer.start_up.T):
        torch.testing.assert_close(rows @ rows.T, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("start", [False, True], ids=["common", "orthogonal"])
def test_a_run_saves_a_lora_that_a_further_run_starts_from(tmp_path: Path, start: bool) -> None:
    changes = {
        "network__algo": "t-lora",
        "network__init": "orthogonal" if start else "usual",
        "precision__gradient_checkpointing": True,
    }
    result = train(tiny_config(tmp_path, "sd15", **changes), tmp_path / "run")
    file = AdapterFile.open(result.adapters[-1])
    assert {file.algorithm_of(name) for name in file.modules} == {"lora"}
    assert file.metadata["ss_network_module"] == "networks.lora"
    name = next(iter(file.modules))
    assert file.load(name).describe()["dim"] == (8 if start else 4)
    further = tiny_config(tmp_path, "sd15", **changes, network__start_from=str(result.adapters[-1]))
    train(further, tmp_path / "further")
    assert losses_of(tmp_path / "further")[0] < losses_of(tmp_path / "run")[0] * 1.5
