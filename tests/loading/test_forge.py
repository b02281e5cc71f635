"""Forge alone: adapters applied on the fly, scaled fp8 and 4-bit weights, its patch type."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from adapter_lab.hosts.loading.live_weights import weight_shapes
from tests.adapters.random_adapter import random_tensors
from tests.loading.forge_ui import ForgeUI, save
from tests.loading.standins import importable

KEY, MODULE, SHAPE = "diffusion_model.proj.weight", "lora_unet_proj", (24, 8)


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[ForgeUI]:
    with importable("forge"):
        started = ForgeUI("forge", tmp_path)
        yield started
        started.host.remove_loader()


def patched_in_fp32(ui: ForgeUI, weight: Tensor, *prompt: tuple[str, float]) -> Tensor:
    """The weight as a model of fp32 weights gets it."""
    ui.on_the_fly(False)
    ui.load({KEY: weight.float()}, "fp32")
    return ui.generate(*prompt)[KEY]


def two_files(ui: ForgeUI) -> list[tuple[str, float]]:
    torch.manual_seed(1)
    save(ui.folder / "a.safetensors", {MODULE: random_tensors("dora", SHAPE)})
    save(ui.folder / "b.safetensors", {MODULE: random_tensors("boft", SHAPE)})
    return [("a", 0.7), ("b", 0.4)]


def test_on_the_fly_the_stored_weight_stays_and_is_patched_in_fp32_when_used(ui: ForgeUI) -> None:
    prompt = two_files(ui)
    stored = torch.randn(SHAPE).to(torch.float8_e4m3fn)
    model = ui.load({KEY: stored})
    ui.on_the_fly(True)
    assert torch.equal(ui.generate(*prompt)[KEY].float(), stored.float())
    used = ui.computed(torch.float16)[KEY]
    wanted = patched_in_fp32(ui, stored, *prompt).to(torch.float16)
    assert torch.equal(used, wanted)
    ui.models.model_data.sd_model = model
    ui.on_the_fly(True)
    ui.generate()
    assert torch.equal(ui.computed(torch.float16)[KEY], stored.to(torch.float16))


@pytest.mark.parametrize("online", [False, True])
def test_scaled_fp8_weights_are_patched_as_what_they_stand_for(ui: ForgeUI, online: bool) -> None:
    prompt, scale = two_files(ui), torch.tensor(0.03)
    stored = (torch.randn(SHAPE) / scale).to(torch.float8_e4m3fn)
    model = ui.load({KEY: stored})
    layer, _ = model.parents()[KEY]
    layer.scale_weight = nn.Parameter(scale, requires_grad=False)
    ui.on_the_fly(online)
    found = ui.generate(*prompt)[KEY].float() * scale
    if online:
        found = ui.computed(torch.float32)[KEY]
    wanted = patched_in_fp32(ui, stored.float() * scale, *prompt)
    assert torch.allclose(found, wanted, rtol=0 if online else 2**-4, atol=1e-6 if online else 1e-3)


def test_4_bit_weights_are_matched_by_the_shape_they_stand_for() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(96, 1))
    module.weight.quant_state = SimpleNamespace(shape=torch.Size(SHAPE))  # type: ignore[attr-defined]
    assert weight_shapes(module) == {"weight": SHAPE}


def test_the_patch_type_is_there_only_while_the_loader_is(ui: ForgeUI) -> None:
    known = importlib.import_module("backend.patcher.lora").extra_weight_calculators
    assert list(known) == ["adapter-lab"]
    ui.host.remove_loader()
    assert known == {}


def test_unloading_moves_the_model_from_the_gpu_lets_it_go_and_has_it_loaded_again(
    ui: ForgeUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memory = ui.models.model_data, importlib.import_module("backend.memory_management")
    model = ui.load({KEY: torch.zeros(SHAPE)})
    data.forge_hash = "loaded"
    unloaded: list[object] = []
    monkeypatch.setattr(memory, "unload_all_models", lambda: unloaded.append(data.sd_model))
    ui.host.free_gpu()
    assert unloaded == [model]
    assert isinstance(data.sd_model, ui.models.FakeInitialModel) and data.forge_hash == ""
