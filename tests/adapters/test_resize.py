"""Resized LoRA files: the smallest error of the rank, and the smallest rank of the error or energy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.resize import resize
from adapter_lab.adapters.svd import RankRule
from adapter_lab.errors import AdapterLabError
from tests.adapters.derived import NAMES, NORM_NAME, case_tensors, largest_error


def singular_values(path: Path) -> dict[str, torch.Tensor]:
    file, shapes = AdapterFile.open(path), {"linear": (24, 16), "conv 1x1": (24, 16, 1, 1)}
    found = {}
    for kind, name in NAMES.items():
        delta = file.load(name, torch.float64).delta(torch.zeros(shapes.get(kind, (24, 16, 3, 3))).double())
        found[name] = torch.linalg.svdvals(delta.flatten(1))
    return found


@pytest.mark.parametrize("case", ["lora", "lora tucker", "lora scalar"])
def test_a_rank_leaves_out_the_smallest_singular_values(case: str, tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_adapter(path, case_tensors(case), {})
    report = resize(path, out, RankRule(rank=2))
    values = singular_values(path)
    assert report.ranks == [2] * 4
    for one in report.made:
        rest = float(values[one.name][2:].norm() / values[one.name].norm())
        assert one.relative == pytest.approx(rest, rel=1e-4)
    assert largest_error([(out, 0.6)], [(path, 0.6)]) == pytest.approx(report.worst[0].relative, rel=1e-4)
    assert AdapterFile.open(out).metadata["ss_network_dim"] == "2"


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_is_the_share_of_squared_singular_values(energy: float, tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_adapter(path, case_tensors("lora"), {})
    report = resize(path, out, RankRule.of(energy=energy))
    for one in report.made:
        shares = singular_values(path)[one.name].square().cumsum(0)
        assert one.rank == int((shares / shares[-1] < energy).sum()) + 1


def test_ranks_never_grow_and_norms_and_biases_stay(tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    more = {f"{NORM_NAME}.w_norm": torch.randn(16), f"{NAMES['linear']}.diff_b": torch.randn(24)}
    save_adapter(path, {**case_tensors("lora"), **more}, {})
    report = resize(path, out, RankRule(rank=100))
    assert report.ranks == [4] * 4
    assert largest_error([(out, 1.0)], [(path, 1.0)]) <= 1e-6


@pytest.mark.parametrize(
    ("case", "kind"), [("loha", "loha"), ("lora dora", "DoRA"), ("full", "full"), ("glora", "glora")]
)
def test_other_algorithms_are_converts(case: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, case_tensors(case), {})
    with pytest.raises(AdapterLabError, match=f"is {kind}, not LoRA; use adapter-lab convert"):
        resize(path, tmp_path / "out.safetensors", RankRule(rank=1))


def test_a_size_is_needed(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", case_tensors("lora"), {})
    with pytest.raises(AdapterLabError, match="Give a rank"):
        resize(tmp_path / "a.safetensors", tmp_path / "out.safetensors", RankRule())
