"""Patches of whole files: the weights they give are those of `adapter-lab apply`, in every dtype, fused layers too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.hosts.loading.base_model import BaseModel, checkpoint_base
from adapter_lab.hosts.loading.cache import CachedFile, signature_of
from adapter_lab.hosts.loading.plan import Plan
from tests.adapters.random_adapter import random_adapter, random_tensors
from tests.support.checkpoints import write_random_checkpoint

QUERY = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module", params=["sd15", "sd2", "sdxl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TensorFile:
    path = tmp_path_factory.mktemp("base") / f"{request.param}.safetensors"
    return TensorFile.open(write_random_checkpoint(path, f"tiny-{request.param}", torch.float32))


def base_of(checkpoint: TensorFile) -> BaseModel:
    base = checkpoint_base(str(checkpoint.path), checkpoint.shapes)
    assert base is not None
    return base


def save(path: Path, modules: dict[str, dict[str, Tensor]]) -> Path:
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path, tensors, {})
    return path


def plan_of(path: Path, base: BaseModel, dyn: int | None = None) -> Plan:
    return CachedFile(str(path), signature_of(str(path))).plan(base, dyn)


@pytest.fixture
def failures() -> dict[str, str]:
    return {}


def one_module(
    tensors: dict[str, Tensor], tmp_path: Path, checkpoint: TensorFile, dyn: int | None = None
) -> tuple[Plan, str]:
    """A file with one module, on the query projection of the first attention layer, and that layer's key."""
    plan = plan_of(save(tmp_path / "one.safetensors", {QUERY: tensors}), base_of(checkpoint), dyn)
    return plan, targets(checkpoint.shapes)[QUERY].key


@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
def test_patched_weights_are_those_of_a_patched_checkpoint(
    strength: float, checkpoint: TensorFile, tmp_path: Path
) -> None:
    adapter = save(tmp_path / "a.safetensors", random_adapter(targets(checkpoint.shapes)))
    apply_adapters(checkpoint.path, [(adapter, strength)], tmp_path / "out.safetensors", changed_only=True)
    expected = TensorFile.open(tmp_path / "out.safetensors")
    plan = plan_of(adapter, base_of(checkpoint))
    assert set(plan.patches) == set(expected.tensors)
    for key, patch in plan.patches.items():
        weight = checkpoint.read(key)
        before = weight.clone()
        assert torch.equal(patch.patched(weight, strength), expected.read(key)), key
        assert torch.equal(weight, before)
        assert torch.allclose(patch.delta(weight, strength), expected.read(key) - weight, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_other_number_formats_are_patched_in_fp32_and_rounded_once(
    dtype: torch.dtype, checkpoint: TensorFile, tmp_path: Path
) -> None:
    shape = targets(checkpoint.shapes)[QUERY].shape
    plan, key = one_module(random_tensors("full", shape), tmp_path, checkpoint)
    stored = checkpoint.read(key).to(dtype)
    work = stored.to(torch.float64 if dtype == torch.float64 else torch.float32, copy=True)
    plan.patches[key].apply_(work, 0.6)
    found = plan.patches[key].patched(stored, 0.6)
    assert found.dtype == dtype and torch.equal(found.double(), work.to(dtype).double())
    assert not torch.equal(found.double(), stored.double())


def test_parts_are_apart(checkpoint: TensorFile, tmp_path: Path) -> None:
    plan = plan_of(
        save(tmp_path / "a.safetensors", random_adapter(targets(checkpoint.shapes), ("lora",))), base_of(checkpoint)
    )
    assert all(key.startswith("model.diffusion_model.") for key in plan.unet) and plan.unet
    assert all(not key.startswith("model.") for key in plan.text) and plan.text
    assert {**plan.unet, **plan.text} == plan.patches
    assert plan.modules == set(targets(checkpoint.shapes))


def test_a_bias_alone_leaves_the_weight_out(checkpoint: TensorFile, tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_0_0"
    target = targets(checkpoint.shapes)[name]
    plan = plan_of(
        save(tmp_path / "b.safetensors", {name: {"diff_b": torch.ones(target.shape[0])}}), base_of(checkpoint)
    )
    (key,) = plan.patches
    assert key == target.bias_key and plan.patches[key].of_bias
    assert torch.equal(plan.patches[key].patched(torch.zeros(target.shape[0]), 0.5), torch.full(target.shape[:1], 0.5))


def test_dyn_keeps_the_first_ranks_at_the_whole_files_scale(checkpoint: TensorFile, tmp_path: Path) -> None:
    tensors = random_tensors("lora", targets(checkpoint.shapes)[QUERY].shape, rank=4)
    plan, key = one_module(tensors, tmp_path, checkpoint, dyn=1)
    weight = checkpoint.read(key)
    scale = float(tensors["alpha"]) / 4
    expected = scale * tensors["lora_up.weight"][:, :1] @ tensors["lora_down.weight"][:1]
    assert torch.allclose(plan.patches[key].delta(weight, 1.0), expected, atol=1e-6)


def test_dyn_leaves_other_algorithms_as_they_are(checkpoint: TensorFile, tmp_path: Path) -> None:
    tensors = random_tensors("lokr", targets(checkpoint.shapes)[QUERY].shape)
    whole, key = one_module(tensors, tmp_path, checkpoint)
    limited, _ = one_module(tensors, tmp_path, checkpoint, dyn=1)
    weight = checkpoint.read(key)
    assert torch.equal(whole.patches[key].patched(weight, 1.0), limited.patches[key].patched(weight, 1.0))


@pytest.mark.parametrize("tensors", ["lora", "full", "oftv2"])
def test_numbers_too_large_for_the_weight_leave_it_as_it_was_and_are_told(
    tensors: str, checkpoint: TensorFile, tmp_path: Path, failures: dict[str, str]
) -> None:
    shape = targets(checkpoint.shapes)[QUERY].shape
    large = {suffix: tensor * 1e30 for suffix, tensor in random_tensors(tensors, shape).items() if suffix != "alpha"}
    plan, key = one_module(large, tmp_path, checkpoint)
    weight = checkpoint.read(key)
    before = weight.clone()
    plan.patches[key].on_failure = failures.__setitem__
    plan.patches[key].apply_(weight, 1e30)
    assert torch.equal(weight, before)
    assert failures == {QUERY: "its numbers are too large"}


def test_a_weight_of_another_shape_is_left_as_it_was_and_told(
    checkpoint: TensorFile, tmp_path: Path, failures: dict[str, str]
) -> None:
    plan, key = one_module(random_tensors("lokr", targets(checkpoint.shapes)[QUERY].shape), tmp_path, checkpoint)
    plan.patches[key].on_failure = failures.__setitem__
    packed = torch.zeros(7, 1)
    plan.patches[key].apply_(packed, 1.0)
    assert not packed.any() and list(failures) == [QUERY]


def test_running_out_of_memory_is_the_web_uis_to_handle(
    checkpoint: TensorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, key = one_module(random_tensors("lora", targets(checkpoint.shapes)[QUERY].shape), tmp_path, checkpoint)

    def fail(self: object, weight: Tensor, strength: float) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(plan.patches[key].modules[0]), "add_to", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        plan.patches[key].apply_(checkpoint.read(key), 1.0)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("around", [autocast, torch.inference_mode, torch.enable_grad])
def test_what_a_web_ui_switches_on_around_us_changes_no_number(
    around: Callable[[], torch.autocast], checkpoint: TensorFile, tmp_path: Path
) -> None:
    plan, key = one_module(random_tensors("dora", targets(checkpoint.shapes)[QUERY].shape), tmp_path, checkpoint)
    weight = torch.nn.Parameter(checkpoint.read(key))
    expected = plan.patches[key].patched(weight.detach(), 0.7)
    with around():
        found = plan.patches[key].patched(weight, 0.7)
    assert torch.equal(found, expected) and not found.requires_grad
