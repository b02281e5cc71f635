"""Adapters on a checkpoint of real size (random weights in the SD1.5 layout): every target, and how long it takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.adapters.tensors import TensorFile
from tests.adapters.random_adapter import random_adapter
from tests.adapters.test_apply import diffusers_name, expected_tensors, save
from tests.support.checkpoints import write_random_checkpoint

pytestmark = pytest.mark.slow
LINEAR = ("attention", "feed_forward", "projection")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("base") / "sd15.safetensors", "sd15", torch.float16)


@pytest.mark.parametrize("algorithm", ["lora", "lokr", "loha", "glora", "diag-oft", "dora"])
@pytest.mark.parametrize("names", ["ldm", "diffusers"])
def test_a_linear_adapter_of_real_size_is_applied_under_either_naming(
    names: str, algorithm: str, base: Path, tmp_path: Path
) -> None:
    table: dict[str, Target] = targets(TensorFile.open(base).shapes)
    table = {name: target for name, target in table.items() if target.role in LINEAR}
    modules = random_adapter(table, (algorithm,), rank=16)
    spelled = {name if names == "ldm" else diffusers_name(table[name]): found for name, found in modules.items()}
    adapter, out = save(tmp_path / "a.safetensors", spelled), tmp_path / "out.safetensors"
    wall, cpu = time.perf_counter(), time.process_time()
    report = apply_adapters(base, [(adapter, 0.8)], out, changed_only=True, dtype="fp32")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{algorithm}, {names} names: {len(report.adapters[0].applied)} modules, {wall:.2f} s, CPU {cpu:.2f} s")
    assert len(report.adapters[0].applied) == len(table) == 264 and not report.adapters[0].not_applied
    found = TensorFile.open(out)
    sample = dict(list(modules.items())[::40])
    for key, tensor in expected_tensors(base, [(sample, 0.8)]).items():
        assert (found.read(key).double() - tensor).norm() <= 1e-5 * tensor.norm()
