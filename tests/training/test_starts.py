"""Factors that a LoRA begins with: they change nothing at first, and SVD's are the weight's largest directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards import LAYERS
from adapter_lab.training.loop import resume, train
from tests.support.adapter_cases import LAYER_TYPES, base_module, input_for, run, spec_of
from tests.support.training import losses_of, tiny_config


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("init", ["orthogonal", "svd"])
def test_a_layer_begins_as_the_base(init: str, layer_type: str) -> None:
    module = base_module(layer_type, True, torch.float32)
    spec = spec_of({"algo": "lora", "dim": 4, "alpha": 2.0, "init": init}, module)
    values = LAYERS["lora"].initial_values(spec, lambda: module.weight)
    layer, x = LAYERS["lora"](spec, module, values), input_for(layer_type, torch.float32)
    torch.testing.assert_close(run(layer, x), module(x), rtol=1e-4, atol=1e-5)
    assert all(parameter.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("layer_type", ["linear", "conv 3x3"])
def test_svd_begins_with_the_largest_directions_of_the_weight(layer_type: str) -> None:
    module = base_module(layer_type, True, torch.float32)
    spec = spec_of({"algo": "lora", "dim": 4, "alpha": 2.0, "init": "svd"}, module)
    values = LAYERS["lora"].initial_values(spec, lambda: module.weight)
    part = spec.scale * values["up"].flatten(1) @ values["down"].flatten(1)
    left, sizes, right = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
    wanted = left[:, :4] @ torch.diag(sizes[:4]) @ right[:4]
    # Nothing of this rank is nearer to the weight; among random numbers no direction is much larger than the next.
    weight = module.weight.flatten(1)
    assert (weight - part).norm() < 1.02 * (weight - wanted).norm()


@pytest.mark.parametrize("init", ["orthogonal", "svd"])
def test_a_run_is_resumed_bit_for_bit_and_its_file_is_a_lora(tmp_path: Path, init: str) -> None:
    changes = {"network__init": init, "run__steps": 4}
    whole = train(tiny_config(tmp_path, **changes), tmp_path / "whole")
    train(tiny_config(tmp_path, **{**changes, "run__steps": 2}), tmp_path / "halves")
    halves = resume(tmp_path / "halves", {"run.steps": 4})
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "halves")
    files = [AdapterFile.open(result.adapters[-1]) for result in (whole, halves)]
    name = next(iter(files[0].modules))
    assert {file.algorithm_of(name) for file in files} == {"lora"} and files[0].load(name).describe()["dim"] == 8
    for suffix, info in files[0].modules[name].items():
        again = files[1].file.read(files[1].modules[name][suffix].key)
        assert torch.equal(files[0].file.read(info.key), again), suffix


def test_a_limit_of_norms_does_not_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.max_norm does not go with network\.init svd"):
        train(tiny_config(tmp_path, network__init="svd", network__max_norm=1.0))
