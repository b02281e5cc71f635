"""Anima in Forge Neo: the conditioner's modules, names that Neo drops, and models of more blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.adapters.random_adapter import random_tensors
from tests.loading.forge_ui import ForgeUI, save
from tests.loading.standins import importable

SHAPE = (8, 8)
LAYERS = ("self_attn.q_proj", "cross_attn.output_proj", "mlp.layer1")
CONDITIONER, NORM = ("blocks.0.self_attn.q_proj", "blocks.0.mlp.2"), "norm"
# One layer of block n as other programs call it, and as Neo reads it.
SPELLINGS = {
    "diffusers": "transformer.transformer_blocks.{n}.attn1.to_q",
    "PEFT of diffusers": "base_model.model.transformer_blocks.{n}.attn1.to_q",
    "bare": "blocks.{n}.self_attn.q_proj",
    "net": "net.blocks.{n}.self_attn.q_proj",
    "PEFT": "base_model.model.blocks.{n}.self_attn.q_proj",
    "lycoris": "lycoris_blocks_{n}_self_attn_q_proj",
    "OneTrainer": "lora_transformer_blocks_{n}_self_attn_q_proj",
}
TAKEN = {"kohya": "lora_unet_blocks_{n}_self_attn_q_proj", "comfy": "diffusion_model.blocks.{n}.self_attn.q_proj"}


def model(blocks: int) -> dict[str, Tensor]:
    """The weights of an Anima of this many blocks, by Neo's names."""
    torch.manual_seed(0)
    names = [f"diffusion_model.blocks.{n}.{layer}" for n in range(blocks) for layer in LAYERS]
    names += [f"qwen3_06b.llm_adapter.{layer}" for layer in CONDITIONER] + ["qwen3_06b.model.layers.0.mlp.up_proj"]
    found = {f"{name}.weight": torch.randn(SHAPE) for name in names}
    return found | {f"qwen3_06b.llm_adapter.{NORM}.weight": torch.ones(8)}


def in_file(spelled: str, name: str) -> str:
    return f"diffusion_model.{name}" if spelled == "comfy" else f"lora_unet_{name.replace('.', '_')}"


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[ForgeUI]:
    with importable("neo"):
        started = ForgeUI("neo", tmp_path)
        yield started
        started.host.remove_loader()


@pytest.mark.parametrize("every_file", [False, True])
@pytest.mark.parametrize("algorithm", ["dora", "boft", "full"])
@pytest.mark.parametrize("spelled", TAKEN)
def test_the_conditioners_modules_are_applied_with_the_text_encoders_strength(
    ui: ForgeUI, spelled: str, algorithm: str, every_file: bool
) -> None:
    ui.chosen.every_file = every_file
    names = [f"blocks.{n}.{layer}" for n in range(2) for layer in LAYERS] + [f"llm_adapter.{x}" for x in CONDITIONER]
    save(ui.folder / "file.safetensors", {in_file(spelled, name): random_tensors(algorithm, SHAPE) for name in names})
    tensors = model(2)
    ui.load(tensors, "model")
    if every_file or algorithm != "full":  # the stand-in adds patches of strength 0
        found = ui.generate(("file", 0.5, 0.0))
        assert changed(tensors, found) == {f"qwen3_06b.llm_adapter.{layer}.weight" for layer in CONDITIONER}
    assert len(changed(tensors, ui.generate(("file", 0.5, 0.5)))) == 8
    ours = every_file or algorithm != "full"
    assert [report.summary().rpartition(", ")[2] for report in ui.loader.reports()] == ["8 of 8 modules"] * ours


@pytest.mark.parametrize("every_file", [False, True])
def test_a_file_of_the_conditioner_alone_and_its_norm(ui: ForgeUI, every_file: bool) -> None:
    ui.chosen.every_file = every_file
    modules = {in_file("kohya", f"llm_adapter.{name}"): random_tensors("dora", SHAPE) for name in CONDITIONER}
    save(ui.folder / "file.safetensors", {**modules, f"lora_unet_llm_adapter_{NORM}": {"w_norm": torch.ones(8)}})
    tensors = model(2)
    ui.load(tensors, "model")
    assert changed(tensors, ui.generate("file")) == {name for name in tensors if "llm_adapter" in name}
    assert ui.loader.reports()[0].summary().endswith("3 of 3 modules")


@pytest.mark.parametrize("every_file", [False, True])
@pytest.mark.parametrize("spelled", [*SPELLINGS, *TAKEN])
def test_every_spelling_changes_the_same_weights_and_what_neo_drops_is_ours(
    ui: ForgeUI, spelled: str, every_file: bool
) -> None:
    ui.chosen.every_file = every_file
    pattern = {**SPELLINGS, **TAKEN}[spelled]
    save(ui.folder / "file.safetensors", {pattern.format(n=n): {"diff": torch.ones(SHAPE)} for n in range(2)})
    tensors = model(2)
    ui.load(tensors, "model")
    found = ui.generate(("file", 0.5))
    keys = {f"diffusion_model.blocks.{n}.self_attn.q_proj.weight" for n in range(2)}
    assert changed(tensors, found) == keys
    assert all(torch.allclose(found[key], tensors[key] + 0.5, atol=4e-3) for key in keys)  # Neo: by way of fp16
    assert bool(ui.loader.reports()) == (every_file or spelled in SPELLINGS)


@pytest.mark.parametrize("every_file", [False, True])
@pytest.mark.parametrize("algorithm", ["lora", "dora", "boft", "diag-oft", "ia3"])
def test_a_name_the_model_lacks_is_named_and_costs_itself(ui: ForgeUI, algorithm: str, every_file: bool) -> None:
    fitting = {TAKEN["kohya"].format(n=n): random_tensors(algorithm, SHAPE) for n in range(2)}
    save(ui.folder / "whole.safetensors", fitting)
    save(ui.folder / "file.safetensors", {**fitting, "lora_unet_no_such_layer": random_tensors(algorithm, SHAPE)})
    ui.load(model(2), "model")
    ui.chosen.every_file = True
    wanted = ui.generate(("whole", 0.6))
    ui.chosen.every_file = every_file
    found = ui.generate(("file", 0.6))
    report = ui.loader.reports()[0]
    assert report.summary().endswith("2 of 3 modules") and list(report.reasons) == ["lora_unet_no_such_layer"]
    assert not changed(wanted, found) and len(changed(model(2), found)) == 2


def by_block(blocks: range, pattern: str) -> dict[str, dict[str, Tensor]]:
    """A file that adds the number of its block to every weight."""
    return {pattern.format(n=n): {"diff": torch.full(SHAPE, float(n))} for n in blocks}


def added(tensors: dict[str, Tensor], found: dict[str, Tensor]) -> list[int]:
    """What was added to the weights of each block."""
    keys = [key for key in tensors if key.endswith("self_attn.q_proj.weight") and "llm_adapter" not in key]
    return [round(float((found[key] - tensors[key]).mean())) for key in keys]


@pytest.mark.parametrize("spelled", ["kohya", "comfy", "diffusers", "bare"])
@pytest.mark.parametrize(("small", "large", "times"), [(28, 40, 2), (28, 52, 3), (40, 52, 2)])
def test_a_file_for_fewer_blocks_is_spread_over_a_larger_model_as_neo_does(
    ui: ForgeUI, small: int, large: int, times: int, spelled: str
) -> None:
    ui.chosen.every_file = False
    save(ui.folder / "file.safetensors", by_block(range(small), {**SPELLINGS, **TAKEN}[spelled]))
    tensors = model(large)
    ui.load(tensors, "model")
    repeated = [1, 3, 5, 7, 9, 11, 14, 16, 18, 20, 22, 24] if small == 28 else list(range(2, 36, 3))
    wanted = [n for n in range(small) for _ in range(times if n in repeated else 1)]
    assert added(tensors, ui.generate("file")) == wanted
    (report,) = ui.loader.reports()
    said = f"file: full, {small} of {small} modules, {small} blocks spread over the base's {large}"
    assert report.summary() == said and report.complete


def test_a_file_of_some_blocks_is_taken_as_it_numbers_them_and_one_of_too_many_refused(ui: ForgeUI) -> None:
    save(ui.folder / "some.safetensors", by_block(range(5, 9), TAKEN["kohya"]))
    save(ui.folder / "large.safetensors", by_block(range(40), TAKEN["kohya"]))
    tensors = model(40)
    ui.load(tensors, "model")
    assert added(tensors, ui.generate("some")) == [n if 5 <= n < 9 else 0 for n in range(40)]
    assert ui.loader.reports()[0].summary().endswith("4 of 4 modules, 4 of 40 blocks, as the file numbers them")
    assert added(tensors, ui.generate("large")) == list(range(40))
    assert ui.loader.reports()[0].summary().endswith("40 of 40 modules")
    tensors = model(28)
    ui.load(tensors, "small.safetensors")
    assert not changed(tensors, ui.generate("large"))
    refused = "large.safetensors changes block 39, but small has 28 blocks; choose an adapter for a model of this size."
    assert str(ui.loader.reports()[0].refused).endswith(refused)
