"""Whatever a prompt names, a web UI applies the other adapters and finishes its image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.adapters.random_adapter import random_tensors
from tests.loading.forge_ui import ForgeUI, difference, expected, save, write_adapter

BROKEN = {
    "missing": None,
    "empty": b"",
    "huge header": b"\xff" * 8 + b"{}",
    "pickle": b"\x80\x04\x95" + bytes(100),
    "no adapter": b'\x4a\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(82) + bytes(4),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("every_file", [True, False])
def test_a_bad_file_disables_no_other(kind: str, every_file: bool, ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.chosen.every_file = every_file
    ui.load_checkpoint(bases["sd15"], "sd15")
    files = [write_adapter(ui.folder / f"{i}.safetensors", bases["sd15"], seed=i) for i in (1, 2)]
    content = BROKEN[kind]
    if content is not None:
        (ui.folder / "bad.safetensors").write_bytes(content)
    wanted = expected(bases["sd15"], "sd15", (files[0], 0.7), (files[1], 0.4))
    assert difference(ui.generate(("1", 0.7), "bad", ("2", 0.4)), wanted) < 1e-6
    if kind != "no adapter":  # the web UI may find something in it
        refused = {report.name: report.refused for report in ui.loader.reports()}
        assert refused["bad"] and "bad" in refused["bad"]
        assert refused["1"] is None and refused["2"] is None


def test_a_file_deleted_after_it_was_listed_disables_no_other(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    gone = write_adapter(ui.folder / "gone.safetensors", bases["sd15"], seed=1)
    ui.generate("gone")
    gone.unlink()
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    assert difference(ui.generate("gone", "mine"), wanted) < 1e-6


def test_a_pickle_is_never_opened_by_us_and_its_failure_disables_no_other(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    (ui.folder / "old.pt").write_bytes(b"\x80\x04\x95" + bytes(100))
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    assert difference(ui.generate("old", "mine"), wanted) < 1e-6


def test_a_file_of_another_family_is_refused_with_that_sentence(ui: ForgeUI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    write_adapter(ui.folder / "xl.safetensors", bases["sdxl"])
    found = ui.generate("xl")
    assert all(torch.equal(found[key], before[key]) for key in before)
    refused = ui.loader.reports()[0].refused or ""
    assert "trained for SDXL" in refused and "SD1.5" in refused


def test_modules_that_fit_no_layer_are_named_and_the_rest_applies(ui: ForgeUI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    name = "lora_unet_input_blocks_1_1_proj_in"
    shape = tuple(before["diffusion_model.input_blocks.1.1.proj_in.weight"].shape)
    save(ui.folder / "mine.safetensors", {
        name: random_tensors("lora", shape),
        "lora_unet_input_blocks_99_proj_in": random_tensors("lora", shape),
        "lora_unet_input_blocks_2_1_proj_in": random_tensors("lora", (8, 8)),
    })  # fmt: skip
    found = ui.generate("mine")
    changed = [key for key in found if not torch.equal(found[key], before[key])]
    assert changed == ["diffusion_model.input_blocks.1.1.proj_in.weight"]
    assert set(ui.loader.reports()[0].reasons) == {
        "lora_unet_input_blocks_99_proj_in",
        "lora_unet_input_blocks_2_1_proj_in",
    }
