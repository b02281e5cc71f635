"""Adapter files applied to checkpoint files: the right tensors, the right values, and what could not be applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.base import patch, patch_, patch_bias
from adapter_lab.adapters.file import adapter_from_tensors, save_adapter
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.adapters.tensors import TensorFile, TensorInfo
from adapter_lab.errors import AdapterLabError, FileFormatError
from tests.adapters.random_adapter import random_adapter
from tests.support.checkpoints import write_random_checkpoint

FAMILIES = ("sd15", "sd2", "sdxl")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        family: write_random_checkpoint(folder / f"{family}.safetensors", f"tiny-{family}", torch.float32)
        for family in FAMILIES
    }


def table_of(path: Path) -> dict[str, Target]:
    return dict(targets(TensorFile.open(path).shapes))


def save(path: Path, modules: dict[str, dict[str, Tensor]], metadata: dict[str, str] | None = None) -> Path:
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path, tensors, metadata or {})
    return path


def diffusers_name(target: Target) -> str:
    return {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}[target.part] + "." + target.module


def expected_tensors(base: Path, steps: list[tuple[dict[str, dict[str, Tensor]], float]]) -> dict[str, Tensor]:
    """The patched tensors in float64, computed target by target on whole tensors."""
    file, table = TensorFile.open(base), table_of(base)
    whole: dict[str, Tensor] = {}
    for modules, strength in steps:
        for name, tensors in modules.items():
            target, adapter = table[name], adapter_from_tensors(tensors)
            weight = whole.setdefault(target.key, file.read(target.key).double())
            first, last = target.rows or (0, weight.shape[0])
            part = weight[first:last].T if target.transposed else weight[first:last]
            changed = patch(part.clone(), adapter, strength)
            weight[first:last] = changed.T if target.transposed else changed
            if adapter.bias_delta is not None:
                assert target.bias_key is not None
                bias = whole.setdefault(target.bias_key, file.read(target.bias_key).double())
                bias[first:last] = patch_bias(bias[first:last].clone(), adapter, strength)
    return whole


@pytest.mark.parametrize("names", ["ldm", "diffusers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_target_of_a_checkpoint_is_patched_and_nothing_else(
    family: str, names: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints[family]
    table = table_of(base)
    modules = random_adapter(table)
    spelled = {name if names == "ldm" else diffusers_name(table[name]): found for name, found in modules.items()}
    adapter, out = save(tmp_path / "adapter.safetensors", spelled), tmp_path / "out.safetensors"
    report = apply_adapters(base, [(adapter, 0.6)], out)
    assert len(report.adapters[0].applied) == len(table) and not report.adapters[0].not_applied
    expected = expected_tensors(base, [(modules, 0.6)])
    assert report.changed == len(expected)
    before, after = TensorFile.open(base), TensorFile.open(out)
    assert after.shapes == before.shapes
    for key in before.tensors:
        if key in expected:
            change = expected[key] - before.read(key).double()
            assert change.norm() > 0
            assert (after.read(key).double() - expected[key]).norm() <= 1e-6 * expected[key].norm(), key
        else:
            assert torch.equal(after.read(key), before.read(key))
    assert json.loads(after.metadata["adapter_lab.applied"]) == [["adapter.safetensors", 0.6]]


def test_several_adapters_apply_in_order_and_are_rounded_once(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["sdxl"]
    table = table_of(base)
    first = random_adapter(table, ("lora", "full"), seed=1)
    second = random_adapter(table, ("dora", "diag-oft"), seed=2)
    paths = [save(tmp_path / f"{i}.safetensors", modules) for i, modules in enumerate((first, second))]
    apply_adapters(base, [(paths[0], 1.0), (paths[1], -0.5)], tmp_path / "out.safetensors", dtype="fp16")
    expected = expected_tensors(base, [(first, 1.0), (second, -0.5)])
    swapped = expected_tensors(base, [(second, -0.5), (first, 1.0)])
    after = TensorFile.open(tmp_path / "out.safetensors")
    for key, tensor in expected.items():
        found = after.read(key)
        assert found.dtype == torch.float16
        assert ((found.double() - tensor).abs() <= 5e-4 * tensor.abs() + 1e-6).all(), key
    assert any((expected[key] - swapped[key]).norm() > 1e-2 * expected[key].norm() for key in expected)


def test_changed_only_keeps_the_patched_tensors_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["sdxl"]
    table = table_of(base)
    name = "lora_te2_text_model_encoder_layers_0_self_attn_v_proj"
    adapter = save(tmp_path / "a.safetensors", random_adapter({name: table[name]}, ("lora",)))
    report = apply_adapters(base, [(adapter, 1.0)], tmp_path / "out.safetensors", changed_only=True)
    out = TensorFile.open(tmp_path / "out.safetensors")
    assert list(out.tensors) == ["conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"]
    assert report.changed == 1 and report.out_bytes == (tmp_path / "out.safetensors").stat().st_size
    (key,) = out.tensors
    changed = (out.read(key) != TensorFile.open(base).read(key)).any(dim=1)
    third = len(changed) // 3
    assert changed[2 * third :].all() and not changed[: 2 * third].any()


def test_each_needed_tensor_is_read_once_and_no_other(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = checkpoints["sdxl"]
    table = table_of(base)
    fused = [name for name in table if "te2_text_model_encoder_layers_0_self_attn_" in name]
    modules = random_adapter(
        {name: table[name] for name in [*fused, "lora_unet_input_blocks_4_0_in_layers_2"]}, ("full",)
    )
    adapter = save(tmp_path / "a.safetensors", modules)
    reads: list[str] = []
    read = TensorFile._read

    def counted(self: TensorFile, file: Any, info: TensorInfo, *more: Any) -> Tensor:
        if self.path == base:
            reads.append(info.key)
        return read(self, file, info, *more)

    monkeypatch.setattr(TensorFile, "_read", counted)
    apply_adapters(base, [(adapter, 1.0)], tmp_path / "out.safetensors", changed_only=True)
    needed = {table[name].key for name in modules} | {table[name].bias_key for name in modules}
    assert sorted(reads) == sorted(key for key in needed if key)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("same", torch.float32), ("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_the_result_has_the_asked_number_format_but_schedules_keep_theirs(
    dtype: str, expected: torch.dtype, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints["sd15"]
    adapter = save(tmp_path / "a.safetensors", random_adapter(table_of(base), ("lora",)))
    apply_adapters(base, [(adapter, 1.0)], tmp_path / "out.safetensors", dtype=dtype)
    for key, info in TensorFile.open(tmp_path / "out.safetensors").tensors.items():
        assert info.dtype == (torch.float32 if key == "alphas_cumprod" else expected)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_of_the_base_are_patched_in_fp32_or_fp64(stored: torch.dtype, tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    base = {key: torch.randn(8, 4, 3, 3).to(stored), "cond_stage_model.transformer.x": torch.zeros(1, dtype=stored)}
    save_adapter(tmp_path / "base.safetensors", base, {})
    modules = random_adapter(table_of(tmp_path / "base.safetensors"), ("lora",))
    adapter = save(tmp_path / "a.safetensors", modules)
    apply_adapters(tmp_path / "base.safetensors", [(adapter, 0.6)], tmp_path / "out.safetensors")
    found = TensorFile.open(tmp_path / "out.safetensors").read(key)
    work = torch.float64 if stored == torch.float64 else torch.float32
    expected = base[key].to(work, copy=True)
    patch_(expected, adapter_from_tensors(modules["lora_unet_input_blocks_0_0"]), 0.6)
    assert found.dtype == stored and torch.equal(found, expected.to(stored))


def test_modules_that_cannot_be_applied_are_named_with_the_reason(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["sd15"]
    table = table_of(base)
    query = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    good = random_adapter({query: table[query]}, ("lora",))
    other = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    wrong = {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k": {"diff": torch.zeros(3, 3)},
        "lora_unet_no_such_module": good[query],
        other: good[query],
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v": {
            "diff": torch.zeros(table[query].shape), "diff_b": torch.zeros(table[query].shape[0]),
        },
    }  # fmt: skip
    adapter = save(tmp_path / "a.safetensors", {**good, **wrong, "emb": {"params": torch.zeros(2)}})
    report = apply_adapters(base, [(adapter, 1.0)], tmp_path / "out.safetensors", changed_only=True)
    found = report.adapters[0]
    assert found.applied == [query, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v"]
    reasons = {
        name.removeprefix("lora_unet_input_blocks_1_1_transformer_blocks_0_"): r
        for name, r in found.not_applied.items()
    }
    assert "shape" in reasons["attn1_to_k"]
    assert "no such module" in reasons["lora_unet_no_such_module"]
    assert "already changes this layer" in reasons[other]
    assert "no bias" in reasons["attn1_to_v (bias)"]
    assert list(found.unknown) == ["emb.params"]
    text = report.text()
    assert "2 modules applied" in text and "lora_unet_no_such_module" in text and "emb.params" in text
    assert json.loads(json.dumps(report.to_dict()))["adapters"][0]["not_applied"] == found.not_applied


@pytest.mark.parametrize("changed_only", [False, True])
def test_strength_0_applies_nothing_and_says_so(
    checkpoints: dict[str, Path], tmp_path: Path, changed_only: bool
) -> None:
    base, table = checkpoints["sd15"], table_of(checkpoints["sd15"])
    name = next(iter(table))
    adapter = save(tmp_path / "a.safetensors", {name: {"diff": torch.ones(table[name].shape)}})
    out = tmp_path / "out.safetensors"
    report = apply_adapters(base, [(adapter, 0.0)], out, changed_only=changed_only)
    assert (report.changed, report.adapters[0].applied) == (0, [])
    assert "0 modules applied, since strength 0 changes nothing" in report.text()
    assert len(TensorFile.open(out).shapes) == (0 if changed_only else len(TensorFile.open(base).shapes))


def test_a_strength_that_is_too_large_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base, table = checkpoints["sd15"], table_of(checkpoints["sd15"])
    name = next(iter(table))
    adapter = save(tmp_path / "a.safetensors", {name: {"diff": torch.ones(table[name].shape)}})
    with pytest.raises(
        AdapterLabError, match=r"lower the strength \(a.safetensors at 1e\+30\), or choose bf16 or fp32"
    ):
        apply_adapters(base, [(adapter, 1e30)], tmp_path / "out.safetensors", dtype="fp16")


FOREIGN: dict[str, tuple[str, dict[str, dict[str, Tensor]], dict[str, str], str]] = {
    "sdxl by its second text encoder": (
        "sd15", {"lora_te2_text_model_encoder_layers_0_mlp_fc1": {"diff": torch.zeros(4, 4)}}, {}, "SDXL.*SD1.5"
    ),
    "sdxl by its depth": (
        "sd2", {"lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q": {"diff": torch.zeros(4, 4)}}, {},
        "SDXL.*SD2",
    ),
    "sd2 by the width of its context": (
        "sd15",
        {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": {"diff": torch.zeros(320, 1024)}},
        {}, "SD2.*SD1.5",
    ),
    "sd15 by its blocks": (
        "sdxl", {"lora_unet_down_blocks_3_resnets_0_conv1": {"diff": torch.zeros(4, 4)}}, {}, "SD1.5.*SDXL"
    ),
    "sd15 by its metadata": (
        "sdxl", {"lora_unet_mid_block_resnets_0_conv1": {"diff": torch.zeros(64, 64, 3, 3)}},
        {"modelspec.architecture": "stable-diffusion-v1/lora"}, "SD1.5.*SDXL",
    ),
    "another model altogether": (
        "sdxl", {"lora_unet_double_blocks_0_img_attn_qkv": {"diff": torch.zeros(4, 4)}}, {}, "was trained for Flux"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_an_adapter_of_another_family_is_refused(case: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    family, modules, metadata, words = FOREIGN[case]
    adapter = save(tmp_path / "a.safetensors", modules, metadata)
    with pytest.raises(FileFormatError, match=words) as raised:
        apply_adapters(checkpoints[family], [(adapter, 1.0)], tmp_path / "out.safetensors")
    assert str(adapter) in str(raised.value) and not (tmp_path / "out.safetensors").exists()


def test_a_pickled_checkpoint_is_read_without_running_code(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = TensorFile.open(checkpoints["sd15"])
    state = {key: base.read(key) for key in base.tensors}
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "base.ckpt")
    adapter = save(tmp_path / "a.safetensors", random_adapter(table_of(base.path)))
    for source, out in ((base.path, "one"), (tmp_path / "base.ckpt", "two")):
        apply_adapters(source, [(adapter, 1.0)], tmp_path / f"{out}.safetensors")
    one, two = (TensorFile.open(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.shapes == two.shapes
    assert all(torch.equal(one.read(key), two.read(key)) for key in one.tensors)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"state_dict": state, "callback": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(FileFormatError, match="could run code"):
        apply_adapters(tmp_path / "trap.ckpt", [(adapter, 1.0)], tmp_path / "out.safetensors")
    assert not (tmp_path / "trapped").exists()


def test_overflow_in_half_precision_is_refused_and_nothing_is_written(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints["sd15"]
    name, target = next(iter(table_of(base).items()))
    adapter = save(tmp_path / "a.safetensors", {name: {"diff": torch.full(target.shape, 1e6)}})
    with pytest.raises(AdapterLabError, match="bf16 or fp32"):
        apply_adapters(base, [(adapter, 1.0)], tmp_path / "out.safetensors", dtype="fp16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_the_base_is_never_overwritten(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["sd15"]
    adapter = save(tmp_path / "a.safetensors", random_adapter(table_of(base), ("lora",)))
    for out in (base, adapter):
        before = out.read_bytes()
        with pytest.raises(AdapterLabError, match="another name"):
            apply_adapters(base, [(adapter, 1.0)], out)
        assert out.read_bytes() == before


def test_an_unknown_dtype_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match="fp32"):
        apply_adapters(checkpoints["sd15"], [], tmp_path / "out.safetensors", dtype="int4")


def test_only_tensors_that_differ_are_counted_as_changed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["sdxl"]
    table = table_of(base)
    modules = dict(list(random_adapter(table, ("lora",), seed=1).items())[:3])
    first = next(iter(modules))
    modules[first] = {**modules[first], "alpha": torch.tensor(0.0)}
    report = apply_adapters(base, [(save(tmp_path / "a.safetensors", modules), 1.0)], tmp_path / "out.safetensors")
    before, after = TensorFile.open(base), TensorFile.open(tmp_path / "out.safetensors")
    differ = sum(not torch.equal(before.read(key), after.read(key)) for key in before.tensors)
    assert report.changed == differ == 2 and len(report.adapters[0].applied) == 3
