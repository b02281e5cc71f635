"""A converted file does what its original does, within the error that is reported, for every algorithm and option."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.convert import convert
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.rewriting import older_glora
from adapter_lab.adapters.standard import standard_targets
from adapter_lab.adapters.svd import RankRule
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import AdapterLabError, FileFormatError
from tests.adapters.derived import NAMES, NORM_NAME, base_tensors, case_tensors, largest_error, save_base
from tests.adapters.lycoris_modules import CASES as LYCORIS
from tests.adapters.lycoris_modules import LAYERS as LYCORIS_LAYERS
from tests.adapters.lycoris_modules import file_tensors, trained
from tests.adapters.random_adapter import random_adapter, random_tensors
from tests.support.adapter_cases import CASES

STRENGTHS = (1.0, 0.6, -0.5)
USES_BASE = [case for case in CASES if "dora" in case or case.split()[0] in ("glora", "diag-oft", "boft", "ia3")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    paths = {case: folder / f"{case.replace(' ', '-')}.safetensors" for case in CASES}
    for case, path in paths.items():
        save_adapter(path, case_tensors(case), {"ss_steps": "40", "ss_tag_frequency": "{}", "sshs_model_hash": "old"})
    return paths


def errors(found: Path, original: Path) -> list[float]:
    return [largest_error([(found, m)], [(original, m)]) for m in STRENGTHS]


@pytest.mark.parametrize("case", CASES)
def test_a_full_difference_is_the_original_at_every_strength(
    case: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    report = convert(originals[case], tmp_path / "out.safetensors", "full", base=base, dtype="fp32")
    assert max(errors(tmp_path / "out.safetensors", originals[case])) <= 2e-7
    assert report.error <= 1e-7 and not report.left_out
    file = AdapterFile.open(tmp_path / "out.safetensors")
    assert {file.algorithm_of(name) for name in file.modules} == {"full"}


@pytest.mark.parametrize("bound", [0.3, 0.02, 1e-4])
@pytest.mark.parametrize("case", CASES)
def test_a_lora_stays_within_the_error_bound_with_no_more_ranks_than_needed(
    case: str, bound: float, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    report = convert(originals[case], out, "lora", rule=RankRule(error=bound), base=base, dtype="fp32")
    found = errors(out, originals[case])
    assert max(found) <= bound * (1 + 1e-6)
    assert max(found) == pytest.approx(max(one.relative for one in report.made), rel=1e-3, abs=1e-6)
    file = AdapterFile.open(out)
    for one in report.made:
        if one.algorithm == "lora":
            assert one.rank == file.load(one.name).describe()["dim"]
            fewer = convert(originals[case], tmp_path / "fewer.safetensors", "lora", base=base, dtype="fp32",
                            rule=RankRule(rank=max(1, one.rank - 1)))  # fmt: skip
            same = next(other for other in fewer.made if other.name == one.name)
            assert one.rank == 1 or same.relative > bound


@pytest.mark.parametrize("case", CASES)
def test_a_lora_of_a_rank_has_the_smallest_error_of_that_rank(
    case: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    report = convert(originals[case], out, "lora", rule=RankRule(rank=3, conv_rank=2), base=base, dtype="fp32")
    convert(originals[case], whole, "full", base=base, dtype="fp32")
    file, difference = AdapterFile.open(out), TensorFile.open(whole)
    for one in report.made:
        delta = difference.read(f"{one.name}.diff").double().flatten(1)
        limit = 2 if one.name in (NAMES["conv 3x3"], NAMES["strided"]) else 3
        values = torch.linalg.svdvals(delta)
        best = float(values[limit:].norm() / values.norm())
        assert one.rank == min(limit, int((values > 1e-6 * values[0]).sum()))
        assert one.relative == pytest.approx(best, rel=1e-4, abs=1e-6)
        assert file.load(one.name).fits(tuple(difference.tensors[f"{one.name}.diff"].shape))


@pytest.mark.parametrize("case", CASES)
def test_a_file_kept_as_it_is_needs_nothing_but_its_tensors(
    case: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    report = convert(originals[case], out, "same")
    assert max(errors(out, originals[case])) <= 1e-6  # alpha is fp32 where it had to be written
    kept, original = AdapterFile.open(out), AdapterFile.open(originals[case])
    assert {name: kept.algorithm_of(name) for name in kept.modules} == {
        name: original.algorithm_of(name) for name in original.modules
    }
    assert report.error == 0 and "error" not in report.text()
    assert all("scalar" not in found for found in kept.modules.values())


@pytest.mark.parametrize("name", [name for name in LYCORIS if not name.endswith("small-block")])
def test_scales_that_only_metadata_tell_become_part_of_alpha(name: str, tmp_path: Path) -> None:
    module = trained(LYCORIS[name], LYCORIS_LAYERS["linear"](True))
    tensors = {f"unet.x.{suffix}": tensor for suffix, tensor in file_tensors(module).items()}
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    arguments = {"algo": "x", "rs_lora": str(name.endswith("rs"))}
    save_adapter(path, tensors, {"ss_network_args": json.dumps(arguments), "ss_network_dim": "3"})
    convert(path, out, "same")
    original, kept = AdapterFile.open(path), AdapterFile.open(out)
    weight = torch.randn(32, 24, dtype=torch.float64)
    expected, found = (file.load("unet.x", torch.float64).delta(weight) for file in (original, kept))
    assert expected.norm() > 0 and (found - expected).norm() <= 1e-6 * expected.norm()
    assert json.loads(kept.metadata["ss_network_args"]) == {"algo": "x"} and kept.metadata["ss_network_dim"] == "3"


def test_a_kernel_that_the_file_does_not_tell_needs_the_base(originals: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match=r"does not tell the kernel of .*in_layers_2.*--base"):
        convert(originals["loha"], tmp_path / "out.safetensors", "full")


def test_older_glora_gets_the_newer_names(tmp_path: Path) -> None:
    name, shape = "lora_unet_input_blocks_1_1_proj_in", (320, 320, 1, 1)
    older = older_glora(random_tensors("glora", shape, rank=3))
    save_adapter(tmp_path / "a.safetensors", {f"{name}.{suffix}": tensor for suffix, tensor in older.items()}, {})
    convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "same")
    file = AdapterFile.open(tmp_path / "out.safetensors")
    weight = torch.randn(shape)
    assert file.modules[name]["a1.weight"].shape[0] == 320 and file.modules[name]["a2.weight"].shape[0] == 3
    expected = AdapterFile.open(tmp_path / "a.safetensors").load(name).delta(weight)
    assert torch.equal(file.load(name).delta(weight), expected)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize(
    ("prefix", "metadata"),
    [("base_model.model.", {}), ("", {"use_cayley_neumann": False}), ("", {"num_cayley_neumann_terms": 3}), ("", None)],
)
def test_oftv2_keeps_its_series_and_direction(
    prefix: str, metadata: dict[str, Any] | None, kernel: tuple[int, ...], tmp_path: Path
) -> None:
    name, new = {
        (): ("down_blocks.0.attentions.0.proj_in", "lora_unet_input_blocks_1_1_proj_in"),
        (3, 3): ("down_blocks.0.resnets.0.conv1", "lora_unet_input_blocks_1_0_in_layers_2"),
    }[kernel]
    told = (
        {} if metadata is None else {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in metadata.items()})}
    )
    spelled = (prefix or "unet.") + name
    save_adapter(
        tmp_path / "a.safetensors",
        {f"{spelled}.oft_R.weight": torch.randn(320 * math.prod(kernel) // 4, 6) * 0.1},
        told,
    )
    convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "same")
    weight = torch.randn(12, 320, *kernel)
    original, kept = AdapterFile.open(tmp_path / "a.safetensors"), AdapterFile.open(tmp_path / "out.safetensors")
    assert torch.equal(kept.load(new).delta(weight), original.load(spelled).delta(weight))


@pytest.mark.parametrize("case", USES_BASE)
def test_what_depends_on_the_base_asks_for_it(case: str, originals: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match=r"depends on the weights of its base model .*--base") as raised:
        convert(originals[case], tmp_path / "out.safetensors", "full")
    assert str(originals[case]) in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "full"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_released_shapes_are_known_without_a_checkpoint(algorithm: str, family: str, tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    wanted = ["lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_input_blocks_3_0_op", "lora_unet_out_2"]
    wanted += [name for name in standard_targets(family) if name.endswith("encoder_layers_1_self_attn_q_proj")]
    table = {name: standard_targets(family)[name] for name in wanted}
    modules = random_adapter(table, (algorithm,))
    version = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}[family]
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path, tensors, {"ss_base_model_version": version})
    report = convert(path, out, "full")
    assert report.family == family
    found = TensorFile.open(out)
    file = AdapterFile.open(path)
    for name, target in table.items():
        expected = file.load(name).delta(torch.zeros(target.shape))
        assert torch.equal(found.read(f"{name}.diff"), expected)


SPELLINGS = {
    "unet.down_blocks.0.resnets.0.conv1": "lora_unet_input_blocks_1_0_in_layers_2",
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj": "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
    "lora_te_encoder_layers_0_mlp_fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "base_model.model.mid_block.resnets.1.conv2": "lora_unet_middle_block_2_out_layers_3",
}


def test_names_of_every_spelling_become_ldm_names_with_alpha(tmp_path: Path) -> None:
    table = standard_targets("sd15")
    tensors: dict[str, Tensor] = {}
    for spelling, name in SPELLINGS.items():
        out, inside, *kernel = table[name].shape
        tensors[f"{spelling}.lora_A.weight"] = torch.randn(3, inside, *kernel)
        tensors[f"{spelling}.lora_B.weight"] = torch.randn(out, 3, *[1] * len(kernel))
    save_adapter(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps({"lora_alpha": 6})})
    convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "lora", rule=RankRule(rank=3))
    file, original = AdapterFile.open(tmp_path / "out.safetensors"), AdapterFile.open(tmp_path / "a.safetensors")
    assert set(file.modules) == set(SPELLINGS.values())
    assert "lora_adapter_metadata" not in file.metadata
    for spelling, name in SPELLINGS.items():
        assert set(file.modules[name]) == {"lora_up.weight", "lora_down.weight", "alpha"}
        shape = torch.zeros(table[name].shape)
        expected, found = original.load(spelling).delta(shape), file.load(name).delta(shape)
        assert expected.norm() > 0 and (found - expected).norm() <= 1e-5 * expected.norm()


def test_models_without_a_table_keep_their_names(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    up, down = torch.randn(12, 4), torch.randn(4, 8)
    save_adapter(tmp_path / "a.safetensors", {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, {})
    report = convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "full")
    assert report.family is None
    assert torch.equal(TensorFile.open(tmp_path / "out.safetensors").read(f"{name}.diff"), up @ down)


def test_norm_layers_and_biases_are_taken_over(base: Path, tmp_path: Path) -> None:
    tensors = {
        f"{NORM_NAME}.w_norm": torch.randn(16),
        f"{NORM_NAME}.b_norm": torch.randn(16),
        f"{NAMES['linear']}.diff_b": torch.randn(24),
        f"{NAMES['conv 3x3']}.diff": torch.randn(24, 16, 3, 3),
        f"{NAMES['conv 3x3']}.diff_b": torch.randn(24),
    }
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    report = convert(
        tmp_path / "a.safetensors", tmp_path / "out.safetensors", "lora", rule=RankRule(error=1e-5), base=base
    )
    assert max(errors(tmp_path / "out.safetensors", tmp_path / "a.safetensors")) <= 1e-5
    assert report.to_dict()["modules"] == {"norm": 1, "full": 1, "lora": 1}


def test_metadata_say_what_the_file_is_and_what_it_was_made_from(
    base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    report = convert(originals["lokr"], out, "lora", rule=RankRule(rank=2), base=base)
    found = AdapterFile.open(out)
    metadata = found.metadata
    assert metadata["ss_steps"] == "40" and metadata["ss_tag_frequency"] == "{}"
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "2"
    assert metadata["ss_network_alpha"] == "2" and metadata["ss_output_name"] == "mine"
    made = json.loads(metadata["adapter_lab.made_from"])
    source = AdapterFile.open(originals["lokr"]).metadata["sshs_model_hash"]
    assert made["how"] == "convert" and made["options"] == {"to": "lora", "rank": 2, "base": "base.safetensors"}
    assert made["files"] == [{"name": "lokr.safetensors", "strength": 1.0, "sha256": source}]
    assert made["error"] == pytest.approx(report.error, rel=1e-2)
    assert metadata["sshs_model_hash"] not in (source, "old")
    convert(originals["lokr"], out, "lora", rule=RankRule(error=0.1), base=base)
    assert AdapterFile.open(out).metadata["ss_network_dim"] == "Dynamic"
    convert(originals["lokr"], out, "full", base=base)
    metadata = AdapterFile.open(out).metadata
    assert metadata["ss_network_module"] == "lycoris.kohya" and json.loads(metadata["ss_network_args"]) == {
        "algo": "full"
    }


def test_a_report_names_the_error_of_the_file_and_its_worst_modules(
    base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    report = convert(originals["lokr"], tmp_path / "out.safetensors", "lora", rule=RankRule(rank=1), base=base)
    worst = report.worst
    assert [one.relative for one in worst] == sorted((one.relative for one in report.made), reverse=True)[:5]
    assert f"{worst[0].relative:.2%}" in report.text() and worst[0].name in report.text()
    total = sum(one.norm**2 for one in report.made)
    assert report.error == pytest.approx((sum((one.relative * one.norm) ** 2 for one in report.made) / total) ** 0.5)
    assert json.loads(json.dumps(report.to_dict()))["worst"][0]["name"] == worst[0].name


@pytest.mark.parametrize("dtype", ["same", "fp32", "fp16", "bf16"])
def test_the_number_format_is_chosen_and_its_rounding_is_part_of_the_error(
    dtype: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    report = convert(originals["loha"], out, "lora", rule=RankRule(error=0.02), base=base, dtype=dtype)
    expected = {"same": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {info.dtype for info in TensorFile.open(out).tensors.values()} == {expected}
    found = errors(out, originals["loha"])
    assert max(found) <= 0.02
    assert max(found) == pytest.approx(max(one.relative for one in report.made), rel=1e-3, abs=1e-6)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "size of a difference": ({"to": "full", "rule": RankRule(rank=3)}, "only LoRA has a size"),
    "no size": ({"to": "lora"}, "Give a rank"),
    "form": ({"to": "nothing"}, "choose one of lora, full, same"),
    "dtype": ({"to": "full", "dtype": "int4"}, "choose one of same"),
    "too exact": ({"to": "lora", "rule": RankRule(error=1e-4), "dtype": "fp16"}, "out of reach in fp16"),
    "name": ({"to": "full", "out": "out.txt"}, "must end in .safetensors"),
    "overwriting": ({"to": "full", "out": "a.safetensors"}, "give the result another name"),
    "no base": ({"to": "full", "base": "missing.safetensors"}, "no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_in_a_sentence_and_write_nothing(case: str, tmp_path: Path) -> None:
    options, words = BAD[case]
    options = dict(options)
    path = tmp_path / "a.safetensors"
    save_adapter(path, {f"{NAMES['linear']}.diff": torch.randn(24, 16)}, {})
    before = path.read_bytes()
    out = tmp_path / options.pop("out", "out.safetensors")
    if "base" in options:
        options["base"] = tmp_path / options["base"]
    with pytest.raises(AdapterLabError, match=words):
        convert(path, out, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank must be 1 or more"),
        ({"conv_rank": -1}, "conv-rank must be"),
        ({"error": 1.5}, "error must be between 0 and 1"),
        ({"energy": 0.0}, "energy must be between"),
        ({"error": 0.1, "energy": 0.9}, "not both"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterLabError, match=words):
        RankRule.of(**options)


def test_a_file_for_another_family_than_the_base_is_refused(base: Path, tmp_path: Path) -> None:
    tensors = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.diff": torch.zeros(4, 4)}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(FileFormatError, match=r"SDXL.*SD1.5"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "full", base=base)


def test_modules_the_base_lacks_are_named(base: Path, tmp_path: Path) -> None:
    tensors = {
        f"{NAMES['linear']}.diff": torch.randn(24, 16),
        "lora_unet_nowhere.diff": torch.zeros(3),
        "x": torch.ones(1),
    }
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    report = convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "full", base=base)
    assert list(report.left_out) == ["lora_unet_nowhere"] and list(report.unknown) == ["x"]
    assert "lora_unet_nowhere: the base has no such module" in report.text()


def test_values_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", {f"{NAMES['linear']}.diff": torch.full((24, 16), 1e6)}, {})
    with pytest.raises(AdapterLabError, match="bf16 or fp32"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "full", dtype="fp16")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_base_used_here_has_every_layer_type() -> None:
    assert {tensor.dim() for tensor in base_tensors().values()} == {1, 2, 4}
