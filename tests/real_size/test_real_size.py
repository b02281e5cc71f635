"""Every adapter type trained on checkpoints of real size: files as predicted, and applied they do what was trained.

The slow tests need up to 12 GB of memory and 24 GB of disk (SDXL; SD1.5 about 8 GB of each).
ADAPTER_LAB_REAL_SIZE names a folder in which the checkpoints of random weights are kept for the next time.
`docs/real-size.md` says what is checked and has what was recorded.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.training.network.network import LayerPlan, plan_network
from tests.support import real_size
from tests.support.checkpoints import write_random_checkpoint
from tests.support.real_size import CASES, Measured, checkpoint_of, in_own_process, measure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("ADAPTER_LAB_REAL_SIZE")
    path = Path(kept) if kept else tmp_path_factory.mktemp("real-size")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_trained_on_a_checkpoint_of_real_size_is_as_predicted_and_applies(case: str, folder: Path) -> None:
    measured = in_own_process(case, checkpoint_of(CASES[case].family, folder), folder)
    print(f"\n{measured}")
    assert not measured.complaints


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("case", ["locon-tucker", "sdxl-lora"])
def test_the_same_on_tiny_checkpoints(case: str, tiny: Path) -> None:
    measured = measure(case, checkpoint_of(CASES[case].family, tiny, tiny=True), tiny, side=64)
    assert not measured.complaints
    assert measured.change > 0.01 and measured.file_bytes > measured.bytes_without_metadata > 0
    assert measured.apply_cpu_seconds > 0 and measured.cpu_seconds_per_step > 0


def test_wrong_files_are_complained_about(tiny: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("sd15", tiny, tiny=True)
    case = CASES["lora"]
    config = real_size.configuration(case, checkpoint, tiny, 64)
    table = targets(TensorFile.open(checkpoint).shapes)
    plans = plan_network(config.network, table)
    fewer = plan_network(dataclasses.replace(config.network, train_te=False), table)
    adapter = tmp_path / "adapter.safetensors"
    save_random(adapter, plans)
    right, unplanned, unknown_size = Measured("lora"), Measured("lora"), Measured("lora")
    real_size.check_size(right, adapter, plans, None)
    real_size.check_size(unplanned, adapter, fewer, None)
    real_size.check_size(unknown_size, adapter, plans, right.bytes_without_metadata + 8)
    assert not right.complaints
    assert len(unplanned.complaints) == 2 and "planned modules" in unplanned.complaints[0]
    assert unknown_size.complaints == [
        f"without metadata the file has {right.bytes_without_metadata} bytes instead of "
        f"{right.bytes_without_metadata + 8}"
    ]


def save_random(path: Path, plans: list[LayerPlan]) -> None:
    """An adapter file of these layers."""
    shapes = {key: shape for plan in plans for key, shape in plan.file_layout.items()}
    save_adapter(path, {key: torch.rand(shape).half() for key, shape in shapes.items()}, {"ss_output_name": "x"})


def test_tensors_that_are_missing_unchanged_or_not_finite_are_complained_about(tmp_path: Path) -> None:
    base = write_random_checkpoint(tmp_path / "base.safetensors", {"a": (2,), "b": (2,)}, torch.float32)
    patched = write_random_checkpoint(tmp_path / "patched.safetensors", {"a": (2,), "b": (2,)}, torch.float32, seed=1)
    complaints = {}
    for name, file, wanted, unchanged in (
        ("right", patched, {"a", "b"}, set()),
        ("missing", patched, {"a", "b", "c"}, set()),
        ("unchanged", base, {"a", "b"}, set()),
        ("should not change", patched, {"a"}, {"a"}),
    ):
        measured = Measured("x")
        real_size.check_patched(measured, TensorFile.open(file), TensorFile.open(base), wanted, unchanged)
        complaints[name] = measured.complaints
    assert complaints == {
        "right": [],
        "missing": ["1 tensors are missing, such as c"],
        "unchanged": ["a is unchanged", "b is unchanged"],
        "should not change": ["a is changed"],
    }
