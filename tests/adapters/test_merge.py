"""A merged file does at strength 1 what its sources do at theirs, one after another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.merge import merge
from adapter_lab.adapters.svd import RankRule
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import AdapterLabError, FileFormatError
from tests.adapters.derived import NAMES, NORM_NAME, applied, base_tensors, case_tensors, largest_error, save_base
from tests.adapters.random_adapter import random_tensors

# Two cases and the algorithms of the layers of their merged file.
PAIRS = {
    ("lora", "lora scalar"): {"lora"},
    ("lora tucker", "lora rank-stabilised"): {"lora"},
    ("lora", "loha"): {"full"},
    ("lokr", "lokr factor 2 tucker"): {"full"},
    ("lora dora", "lora"): {"full"},
    ("lora", "lora dora"): {"full"},
    ("diag-oft", "boft rescaled"): {"full"},
    ("glora", "ia3 on inputs"): {"full"},
    ("full", "full without bias"): {"full"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base.safetensors")


def save(folder: Path, *cases: str) -> list[Path]:
    paths = [folder / f"{number}.safetensors" for number in range(len(cases))]
    for number, (case, path) in enumerate(zip(cases, paths)):
        save_adapter(path, case_tensors(case, seed=10 * number), {"ss_v2": "False", "ss_steps": str(number)})
    return paths


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_files_of_any_two_algorithms_are_merged_exactly(pair: tuple[str, str], base: Path, tmp_path: Path) -> None:
    one, two = save(tmp_path, *pair)
    steps, out = [(one, 0.7), (two, -0.4)], tmp_path / "out.safetensors"
    report = merge(steps, out, base=base, dtype="fp32")
    assert {found.algorithm for found in report.made} == PAIRS[pair]
    assert largest_error([(out, 1.0)], steps) <= 1e-6 and report.error <= 1e-6
    if PAIRS[pair] == {"lora"}:
        file = AdapterFile.open(out)
        ranks = [AdapterFile.open(path).load(NAMES["linear"]).describe()["dim"] for path in (one, two)]
        assert all(file.load(name).describe()["dim"] == sum(ranks) for name in file.modules)


def test_order_matters_where_it_does_in_a_prompt(base: Path, tmp_path: Path) -> None:
    one, two = save(tmp_path, "lora", "diag-oft")
    merge([(one, 1.0), (two, 1.0)], tmp_path / "a.safetensors", base=base, dtype="fp32")
    merge([(two, 1.0), (one, 1.0)], tmp_path / "b.safetensors", base=base, dtype="fp32")
    found = applied([(tmp_path / "a.safetensors", 1.0)]), applied([(tmp_path / "b.safetensors", 1.0)])
    before = base_tensors()
    apart = [
        float((a - b).norm() / (a - before[key]).norm()) for (key, a), b in zip(found[0].items(), found[1].values())
    ]
    assert max(number for number in apart if number == number) > 1e-2


@pytest.mark.parametrize("pair", [("lora", "lora tucker"), ("lokr", "diag-oft")], ids=" + ".join)
def test_a_rank_or_error_bound_makes_one_lora(pair: tuple[str, str], base: Path, tmp_path: Path) -> None:
    one, two = save(tmp_path, *pair)
    steps, out = [(one, 0.7), (two, -0.4)], tmp_path / "out.safetensors"
    report = merge(steps, out, rule=RankRule(error=0.1), base=base, dtype="fp32")
    assert {found.algorithm for found in report.made} == {"lora"}
    assert 0 < largest_error([(out, 1.0)], steps) <= 0.1
    report = merge(steps, out, rule=RankRule(rank=2), base=base, dtype="fp32")
    assert report.ranks[-1] == 2
    assert largest_error([(out, 1.0)], steps) == pytest.approx(report.worst[0].relative, rel=1e-4)


def test_a_full_difference_is_made_when_asked_for(tmp_path: Path) -> None:
    one, two = save(tmp_path, "lora", "lora")
    report = merge([(one, 1.0), (two, 1.0)], tmp_path / "out.safetensors", full=True, dtype="fp32", base=None)
    assert {found.algorithm for found in report.made} == {"full"}
    assert largest_error([(tmp_path / "out.safetensors", 1.0)], [(one, 1.0), (two, 1.0)]) <= 1e-6


def test_layers_norms_and_biases_of_only_one_file_are_kept(base: Path, tmp_path: Path) -> None:
    linear = {f"{NAMES['linear']}.{suffix}": t for suffix, t in random_tensors("lora", (24, 16)).items()}
    norm = {f"{NORM_NAME}.w_norm": torch.randn(16), f"{NORM_NAME}.b_norm": torch.randn(16)}
    bias = {f"{NAMES['linear']}.diff_b": torch.randn(24)}
    conv = {f"{NAMES['strided']}.diff": torch.randn(24, 16, 3, 3), f"{NAMES['strided']}.diff_b": torch.randn(24)}
    save_adapter(tmp_path / "0.safetensors", {**linear, **norm}, {})
    save_adapter(tmp_path / "1.safetensors", {**conv, **bias, **norm}, {})
    steps = [(tmp_path / "0.safetensors", 2.0), (tmp_path / "1.safetensors", -0.3)]
    report = merge(steps, tmp_path / "out.safetensors", base=base)
    assert largest_error([(tmp_path / "out.safetensors", 1.0)], steps) <= 1e-6
    assert [found.algorithm for found in report.made].count("norm") == 1
    assert len({found.name for found in report.made}) == len(report.made)


def test_merging_equals_applying_one_after_another_to_the_checkpoint(base: Path, tmp_path: Path) -> None:
    one, two = save(tmp_path, "lokr dora", "boft")
    merge([(one, 0.5), (two, 0.8)], tmp_path / "out.safetensors", base=base, dtype="fp32")
    for adapters, name in (([(one, 0.5), (two, 0.8)], "a"), ([(tmp_path / "out.safetensors", 1.0)], "b")):
        apply_adapters(base, adapters, tmp_path / f"{name}-applied.safetensors")
    before, a, b = (
        TensorFile.open(p) for p in (base, tmp_path / "a-applied.safetensors", tmp_path / "b-applied.safetensors")
    )
    for key in before.tensors:
        change = (a.read(key) - before.read(key)).double().norm()
        assert (a.read(key) - b.read(key)).double().norm() <= 1e-6 * change


def test_metadata_keep_what_all_sources_agree_on(tmp_path: Path) -> None:
    one, two = save(tmp_path, "lora", "lora")
    merge([(one, 1.0), (two, 0.5)], tmp_path / "out.safetensors")
    metadata = AdapterFile.open(tmp_path / "out.safetensors").metadata
    assert metadata["ss_v2"] == "False" and "ss_steps" not in metadata
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "8"
    files = json.loads(metadata["adapter_lab.made_from"])["files"]
    assert [(found["name"], found["strength"]) for found in files] == [("0.safetensors", 1.0), ("1.safetensors", 0.5)]
    assert [len(found["sha256"]) for found in files] == [64, 64]


def test_files_of_different_families_or_shapes_are_refused(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{number}.safetensors" for number in range(3))
    save_adapter(one, {"lora_te2_text_model_encoder_layers_0_mlp_fc1.diff": torch.zeros(4, 4)}, {})
    save_adapter(two, {"lora_unet_down_blocks_3_resnets_0_conv1.diff": torch.zeros(4, 4)}, {})
    with pytest.raises(
        FileFormatError, match=r"different base models: .*0.safetensors for SDXL or .*, .*1.safetensors for SD1.5"
    ):
        merge([(one, 1.0), (two, 1.0)], tmp_path / "out.safetensors")
    save_adapter(three, {"lora_te2_text_model_encoder_layers_0_mlp_fc1.diff": torch.zeros(5, 4)}, {})
    with pytest.raises(AdapterLabError, match=r"shape \[5, 4\].*shape \[4, 4\]"):
        merge([(one, 1.0), (three, 1.0)], tmp_path / "out.safetensors")
    with pytest.raises(AdapterLabError, match="nothing to merge"):
        merge([], tmp_path / "out.safetensors")
    with pytest.raises(AdapterLabError, match="no rank"):
        merge([(one, 1.0)], tmp_path / "out.safetensors", full=True, rule=RankRule(rank=1))
    assert not (tmp_path / "out.safetensors").exists()
