"""Files, settings and our loader itself change between images: each image shows what is there now."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from tests.loading.forge_ui import HOSTS, ForgeUI, difference, expected, save, write_adapter


def overwrite(path: Path, base: Path, seed: int) -> None:
    """Train again under the same name: another file takes its place."""
    new = write_adapter(path.with_suffix(".tmp"), base, seed=seed)
    os.replace(new, path)
    os.utime(path, ns=(0, seed * 10**9))


def test_a_prompt_without_adapters_gets_the_base_back(ui: ForgeUI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    assert difference(ui.generate("mine"), before) > 0.01
    after = ui.generate()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert ui.loader.reports() == []


def test_a_file_trained_again_under_its_name_is_used_in_the_next_picture(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    processing = importlib.import_module("modules.processing")
    processing.StableDiffusionProcessing.cached_c[0] = "the last prompt"
    overwrite(file, bases["sd15"], seed=7)
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    assert difference(ui.generate("mine"), wanted) < 1e-6
    assert processing.StableDiffusionProcessing.cached_c[0] is None


def test_a_file_overwritten_in_place_while_loaded_changes_nothing_until_the_next_picture(
    ui: ForgeUI, bases: dict[str, Path]
) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    ui.activate("mine")
    with file.open("r+b") as opened_file:
        opened_file.write(bytes(file.stat().st_size))
    assert difference(ui.use_model(), wanted) < 1e-6


@pytest.mark.parametrize("ui", ["classic", *HOSTS], indirect=True)
def test_text_is_encoded_anew_when_a_file_of_the_same_prompt_is_gone(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    processing = importlib.import_module("modules.processing")
    processing.StableDiffusionProcessing.cached_c[0] = "the last prompt"
    file.unlink()
    ui.generate("mine")
    assert processing.StableDiffusionProcessing.cached_c[0] is None


@pytest.mark.parametrize("ui", ["classic", "a1111", "forge", "reforge"], indirect=True)  # Neo knows no dyn=
def test_another_number_of_ranks_alone_is_a_change(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    write_adapter(ui.folder / "mine.safetensors", bases["sd15"], ("lora",))
    both, one = ui.generate("mine", dyn_dims=[None]), ui.generate("mine", dyn_dims=[1])
    assert difference(both, one) > 0.01


def test_only_files_the_web_ui_gets_wrong_are_taken_from_it(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.chosen.every_file = False
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    key = "diffusion_model.input_blocks.1.1.proj_in.weight"
    module = "lora_unet_input_blocks_1_1_proj_in"
    save(ui.folder / "full.safetensors", {module: {"diff": torch.ones_like(before[key])}})
    doubling = {"weight": torch.ones(len(before[key]), 1, 1, 1), "on_input": torch.tensor(0)}
    save(ui.folder / "ia3.safetensors", {module: doubling})
    found = ui.generate("full")
    assert torch.allclose(found[key], before[key] + 1, atol=1e-2)  # by the web UI, on a GPU in fp16
    assert ui.loader.reports() == []
    found = ui.generate("full", "ia3")
    assert difference({key: found[key]}, {key: before[key] + 1}) > 0.1
    assert [report.name for report in ui.loader.reports()] == (["full", "ia3"] if ui.together else ["ia3"])


def test_a_file_left_to_the_web_ui_is_read_anew_when_it_changes_and_never_mapped(
    ui: ForgeUI, bases: dict[str, Path]
) -> None:
    ui.chosen.every_file = False
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    key, module = "diffusion_model.input_blocks.1.1.proj_in.weight", "lora_unet_input_blocks_1_1_proj_in"
    file = save(ui.folder / "full.safetensors", {module: {"diff": torch.ones_like(before[key])}})
    ui.generate("full")
    save(file, {module: {"diff": torch.full_like(before[key], 3.0)}})
    os.utime(file, ns=(0, 10**9))
    ui.activate("full")
    with file.open("r+b") as opened_file:
        opened_file.write(bytes(file.stat().st_size))
    found = ui.generate("full")  # of zeros now, and refused
    assert torch.equal(found[key], before[key])


def test_the_loader_turned_off_leaves_everything_to_the_web_ui(ui: ForgeUI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    write_adapter(ui.folder / "mine.safetensors", bases["sd15"], ("ia3",), part="unet")
    assert difference(ui.generate("mine"), before) > 0.01
    ui.chosen.enabled = False
    found = ui.generate("mine")  # which does not know these
    conv = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(found[conv], before[conv])
    assert ui.loader.reports() == []


def test_hooks_are_installed_once_and_leave_nothing_behind(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.host.remove_loader()
    originals = {name: getattr(ui.networks, name) for name in ui.hooked}
    for _ in range(10):
        ui.host.install_loader(ui.loader)
        ui.host.install_loader(ui.loader)
        assert ui.networks.load_networks._adapter_lab_original is originals["load_networks"]
        ui.host.remove_loader()
        assert all(getattr(ui.networks, name) is original for name, original in originals.items())
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    write_adapter(ui.folder / "mine.safetensors", bases["sd15"], ("ia3",), part="unet")
    found = ui.generate("mine")
    conv = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(found[conv], before[conv])


def test_what_was_applied_goes_with_the_next_picture_after_removal(ui: ForgeUI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    ui.host.remove_loader()
    found = ui.generate()
    assert all(torch.equal(found[key], before[key]) for key in before)


def test_a_web_ui_without_the_functions_we_need_is_left_alone(ui: ForgeUI) -> None:
    ui.host.remove_loader()
    kept, missing = ui.hooked[0], ui.hooked[-1]
    original = getattr(ui.networks, kept)
    delattr(ui.networks, missing)
    messages = ui.host.install_loader(ui.loader)
    assert len(messages) == 1 and missing in messages[0]
    assert getattr(ui.networks, kept) is original


@pytest.mark.parametrize("ui", ["classic", *HOSTS], indirect=True)
def test_a_web_ui_whose_patches_are_computed_otherwise_is_left_alone(ui: ForgeUI) -> None:
    ui.host.remove_loader()
    module = importlib.import_module(
        "ldm_patched.modules.model_patcher" if ui.name == "classic" else ui.host.lora_module
    )
    delattr(module, "weight_adapter" if ui.name in ("neo", "reforge") else "extra_weight_calculators")
    originals = [getattr(ui.networks, name) for name in ui.hooked]
    messages = ui.host.install_loader(ui.loader)
    assert len(messages) == 1 and ui.host.title in messages[0]
    assert [getattr(ui.networks, name) for name in ui.hooked] == originals


def test_no_model_loaded_yet_is_no_error(ui: ForgeUI) -> None:
    ui.activate()
