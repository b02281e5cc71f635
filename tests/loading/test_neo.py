"""Neo alone: adapters applied on the fly, its choice of dtype, models that only it can patch, further folders."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.adapters.random_adapter import random_tensors
from tests.loading.forge_ui import ForgeUI, save
from tests.loading.standins import importable

KEY, MODULE, SHAPE = "diffusion_model.proj.weight", "lora_unet_proj", (24, 8)


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[ForgeUI]:
    with importable("neo"):
        started = ForgeUI("neo", tmp_path)
        torch.manual_seed(1)
        save(tmp_path / "a.safetensors", {MODULE: random_tensors("dora", SHAPE)})
        save(tmp_path / "b.safetensors", {MODULE: random_tensors("boft", SHAPE)})
        yield started
        started.host.remove_loader()


def test_on_the_fly_the_stored_weight_stays_and_is_patched_in_fp32_when_used(ui: ForgeUI) -> None:
    prompt = [("a", 0.7), ("b", 0.4)]
    stored = torch.randn(SHAPE).to(torch.bfloat16)
    model = ui.load({KEY: stored})
    ui.on_the_fly(True)
    assert torch.equal(ui.generate(*prompt)[KEY], stored)
    used = ui.computed(torch.bfloat16)[KEY]
    ui.on_the_fly(False)
    ui.load({KEY: stored.float()}, "fp32")
    assert torch.equal(used, ui.generate(*prompt)[KEY].to(torch.bfloat16))
    ui.models.model_data.sd_model = model
    ui.generate()
    assert torch.equal(ui.computed(torch.bfloat16)[KEY], stored)


@pytest.mark.parametrize("on_the_fly", [False, True])
@pytest.mark.parametrize("algorithm", ["dora", "boft", "diag-oft", "lokr", "ia3"])
def test_a_picture_is_made_on_the_fly_as_it_is_otherwise(ui: ForgeUI, algorithm: str, on_the_fly: bool) -> None:
    """Before it samples, Neo adds up the memory of adapters that are applied on the fly."""
    sampling = importlib.import_module("backend.sampling.sampling_function")
    save(ui.folder / "file.safetensors", {MODULE: random_tensors(algorithm, SHAPE)})
    stored = torch.randn(SHAPE)
    model = ui.load({KEY: stored})
    ui.on_the_fly(on_the_fly)
    ui.activate(("file", 0.6))
    sampling.sampling_prepare(model.forge_objects.unet)
    used = ui.computed(torch.float32)[KEY]
    ui.on_the_fly(False)
    model = ui.load({KEY: stored}, "again")
    assert torch.equal(used, ui.generate(("file", 0.6))[KEY])


def test_our_patches_have_all_that_the_web_ui_says_adapters_have(ui: ForgeUI) -> None:
    base = importlib.import_module("backend.patcher.lora").weight_adapter.WeightAdapterBase
    model = ui.load({KEY: torch.zeros(SHAPE)})
    ui.activate("a")
    ((_, patch, *_),) = model.forge_objects.unet.patches[KEY]
    assert isinstance(patch, base) and all(hasattr(patch, name) for name in base.__annotations__)


def test_only_patches_of_ours_are_computed_in_fp32(ui: ForgeUI) -> None:
    memory = importlib.import_module("backend.memory_management")
    ui.load({KEY: torch.zeros(SHAPE)})
    save(ui.folder / "tiny.safetensors", {MODULE: {"diff": torch.full(SHAPE, 1e-9)}})
    assert torch.equal(ui.generate("tiny")[KEY], torch.full(SHAPE, 1e-9))
    assert memory.lora_compute_dtype(torch.device("cpu")) == torch.float16
    ui.chosen.every_file = False
    assert torch.equal(ui.generate("tiny")[KEY], torch.zeros(SHAPE))  # by Neo itself, in fp16


def test_nunchaku_models_are_left_to_the_web_ui(ui: ForgeUI) -> None:
    model = ui.load({KEY: torch.zeros(SHAPE)})
    importlib.import_module("backend.args").dynamic_args.nunchaku = True
    ui.generate(("a", 0.5))
    assert model.forge_objects.unet.model.loras == [(str(ui.folder / "a.safetensors"), 0.5)]
    assert ui.loader.reports() == []


def test_further_folders_of_adapters_come_after_the_one_to_save_into(ui: ForgeUI) -> None:
    ui.shared.cmd_opts.lora_dirs = ["/more"]
    assert ui.host.adapter_folder() == [ui.folder, Path("/more")]


@pytest.mark.parametrize("asks", [True, False])
def test_on_the_fly_a_layer_that_never_asks_for_its_patches_is_not_said_to_have_them(ui: ForgeUI, asks: bool) -> None:
    model = ui.load({KEY: torch.zeros(SHAPE)})
    layer, _ = model.parents()[KEY]
    if not asks:  # as layers of other libraries
        del layer.parameters_manual_cast
    ui.on_the_fly(True)
    ui.generate("a")
    if asks:
        ui.computed(torch.float32)
    (report,) = ui.loader.reports()
    assert report.summary().endswith(f"{int(asks)} of 1 modules") and report.complete == asks
