"""What is extracted from two checkpoints turns the first into the second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.extract import extract
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.svd import RankRule
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import AdapterLabError, FileFormatError
from tests.support.checkpoints import write_random_checkpoint

FAMILIES = ("sd15", "sd2", "sdxl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A tiny checkpoint of each family and another of other weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        family: tuple(
            write_random_checkpoint(folder / f"{family}-{seed}.safetensors", f"tiny-{family}", torch.float32, seed)
            for seed in (0, 1)
        )
        for family in FAMILIES
    }  # type: ignore[misc]


def changed_errors(base: Path, tuned: Path, adapter: Path, out: Path) -> dict[str, float]:
    """The relative error of each tensor of a layer after applying `adapter` to `base`, without those equal in both."""
    apply_adapters(base, [(adapter, 1.0)], out)
    before, wanted, found = (TensorFile.open(path) for path in (base, tuned, out))
    table = targets(before.shapes).values()
    keys = {key for target in table for key in (target.key, target.bias_key) if key}
    return {
        key: float((found.read(key) - wanted.read(key)).norm() / (wanted.read(key) - before.read(key)).norm())
        for key in keys
        if not torch.equal(before.read(key), wanted.read(key))
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_difference_turns_one_checkpoint_into_the_other(
    family: str, pairs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    base, tuned = pairs[family]
    report = extract(base, tuned, tmp_path / "a.safetensors", full=True, dtype="fp32")
    errors = changed_errors(base, tuned, tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    assert max(errors.values()) <= 1e-6 and not report.left_out and not report.notes
    assert len(report.made) == len(targets(TensorFile.open(base).shapes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_has_the_error_that_is_reported(
    family: str, pairs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    base, tuned = pairs[family]
    report = extract(base, tuned, tmp_path / "a.safetensors", rule=RankRule(error=0.3))
    errors = changed_errors(base, tuned, tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    table = targets(TensorFile.open(base).shapes)
    for one in report.made:
        assert 0 < one.relative <= 0.3
        if table[one.name].rows is None:
            assert errors[table[one.name].key] == pytest.approx(one.relative, rel=1e-2)
    layers = [target for target in table.values() if target.kind != "norm"]
    assert {one.name for one in report.made} == {target.name for target in layers}
    biases = sum(target.bias_key is not None for target in layers)
    norms = sum(target.kind == "norm" for target in table.values())
    assert report.notes == [] or f"{norms + biases} norm layers and biases" in report.notes[0]
    assert report.notes


def edited(path: Path, out: Path, edits: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    file = TensorFile.open(path)
    save_file({key: edits.get(key, file.read(key)) for key in file.tensors}, out, file.metadata)
    return out


def test_only_layers_that_differ_are_extracted(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base = pairs["sdxl"][0]
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    weight = TensorFile.open(base).read(key)
    third = len(weight) // 3
    weight[third : 2 * third] += torch.outer(torch.randn(third), torch.randn(weight.shape[1]))
    tuned = edited(base, tmp_path / "tuned.safetensors", {key: weight})
    report = extract(base, tuned, tmp_path / "a.safetensors", rule=RankRule(rank=4))
    assert [(one.name, one.rank) for one in report.made] == [
        ("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", 1)
    ]
    assert report.error < 1e-3 and not report.notes
    errors = changed_errors(base, tuned, tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    assert list(errors) == [key] and errors[key] < 1e-3


def test_hosts_can_sort_the_file_by_its_metadata(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    extract(*pairs["sdxl"], tmp_path / "a.safetensors", rule=RankRule(rank=1))
    metadata = AdapterFile.open(tmp_path / "a.safetensors").metadata
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0" and metadata["ss_v2"] == "False"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["ss_sd_model_name"] == "sdxl-0.safetensors" and metadata["ss_network_dim"] == "1"
    made = json.loads(metadata["adapter_lab.made_from"])
    assert made["how"] == "extract" and [file["name"] for file in made["files"]] == [
        path.name for path in pairs["sdxl"]
    ]


def test_layers_of_other_shapes_are_named(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base, tuned = pairs["sd15"]
    key = "model.diffusion_model.input_blocks.0.0.weight"
    wider = edited(tuned, tmp_path / "wider.safetensors", {key: torch.randn(32, 9, 3, 3)})
    report = extract(base, wider, tmp_path / "a.safetensors", rule=RankRule(rank=1))
    assert list(report.left_out) == ["lora_unet_input_blocks_0_0"]
    assert "wider.safetensors has a weight of shape [32, 9, 3, 3], not [32, 4, 3, 3]" in report.text()


def test_what_cannot_be_extracted_is_refused(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base, tuned = pairs["sd15"]
    out = tmp_path / "a.safetensors"
    with pytest.raises(FileFormatError, match="two of the same family"):
        extract(base, pairs["sdxl"][0], out, full=True)
    with pytest.raises(FileFormatError, match="nothing to extract"):
        extract(base, base, out, full=True)
    with pytest.raises(AdapterLabError, match="Give a rank"):
        extract(base, tuned, out)
    with pytest.raises(AdapterLabError, match="fp32, fp16, bf16"):
        extract(base, tuned, out, full=True, dtype="same")
    broken = edited(tuned, tmp_path / "nan.safetensors",
                    {"model.diffusion_model.out.2.bias": torch.full((4,), float("nan"))})  # fmt: skip
    with pytest.raises(FileFormatError, match=r"out.2.bias differs by NaN"):
        extract(base, broken, out, full=True)
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]
