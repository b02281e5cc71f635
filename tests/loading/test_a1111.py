"""What only A1111 has: layers patched as they run, fused attention, its old method, fp8, models of other families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from tests.adapters.random_adapter import random_tensors
from tests.loading.a1111_ui import A1111UI
from tests.loading.forge_ui import difference, expected, save, write_adapter
from tests.loading.web_uis import opened
from tests.support.checkpoints import write_random_checkpoint

MODULE, KEY = "lora_unet_input_blocks_1_1_proj_in", "diffusion_model.input_blocks.1.1.proj_in.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        family: write_random_checkpoint(folder / f"{family}.safetensors", f"tiny-{family}", torch.float32)
        for family in ("sd15", "sd2")
    }


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[A1111UI]:
    folder = tmp_path / "Lora"
    folder.mkdir()
    with opened("a1111", folder) as started:
        assert isinstance(started, A1111UI)
        yield started


def test_a_layer_is_patched_once_however_often_it_runs(ui: A1111UI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    assert difference(ui.use_model(), wanted) < 1e-6
    assert difference(ui.generate("mine"), wanted) < 1e-6


def test_a_new_strength_is_applied_to_the_base(ui: A1111UI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd2"], "sd2")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd2"])
    ui.generate("mine")
    assert difference(ui.generate(("mine", 0.4)), expected(bases["sd2"], "sd2", (file, 0.4))) < 1e-6


def test_a_checkpoint_loaded_into_the_same_modules_is_not_overwritten(ui: A1111UI, bases: dict[str, Path]) -> None:
    loaded = ui.load_checkpoint(bases["sd2"], "sd2")
    write_adapter(ui.folder / "mine.safetensors", bases["sd2"])
    ui.generate("mine")
    for layer in loaded.tree.modules():
        for parameter in layer.parameters(recurse=False):
            parameter.fill_(0.25)
        ui.networks.network_reset_cached_weight(layer)
    loaded.tree.sd_checkpoint_info = type(loaded.sd_checkpoint_info)("another.safetensors")
    assert all(torch.all(tensor == 0.25) for tensor in ui.generate().values())


def test_a_model_that_takes_over_in_the_middle_of_a_picture_is_patched_too(ui: A1111UI, bases: dict[str, Path]) -> None:
    first = ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    ui.load_checkpoint(bases["sd15"], "sd15")
    assert difference(ui.use_model(), expected(bases["sd15"], "sd15", (file, 1.0))) < 1e-6
    before = ui.load_checkpoint(bases["sd2"], "sd2").weights()
    assert difference(ui.use_model(), before) == 0.0
    ui.loaded, ui.models.model_data.sd_model = first, first.tree
    assert difference(ui.generate("mine"), expected(bases["sd15"], "sd15", (file, 1.0))) < 1e-6


def test_every_model_in_memory_gets_a_retrained_file(ui: A1111UI, bases: dict[str, Path]) -> None:
    first = ui.load_checkpoint(bases["sd15"], "sd15")
    file = write_adapter(ui.folder / "mine.safetensors", bases["sd15"])
    ui.generate("mine")
    second = ui.load_checkpoint(bases["sd15"], "sd15")
    ui.models.model_data.loaded_sd_models = [first.tree, second.tree]
    ui.generate("mine")
    write_adapter(file, bases["sd15"], seed=9)
    ui.generate("mine")
    ui.loaded, ui.models.model_data.sd_model = first, first.tree
    assert difference(ui.generate("mine"), expected(bases["sd15"], "sd15", (file, 1.0))) < 1e-6


def test_dyn_keeps_the_first_ranks_at_their_scale(ui: A1111UI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()[KEY]
    module = random_tensors("lora", tuple(before.shape), rank=4)
    shorter = {
        "lora_up.weight": module["lora_up.weight"][:, :1].contiguous(),
        "lora_down.weight": module["lora_down.weight"][:1].contiguous(),
        "alpha": module["alpha"] / 4,
    }
    save(ui.folder / "mine.safetensors", {MODULE: module})
    file = save(ui.folder / "shorter.safetensors", {MODULE: shorter})
    wanted = expected(bases["sd15"], "sd15", (file, 1.0))
    assert difference(ui.generate("mine", dyn_dims=[1]), wanted) < 1e-6
    assert difference(ui.generate("mine"), wanted) > 1e-3


def test_the_old_method_uses_the_patched_weight_and_then_the_base_again(ui: A1111UI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()[KEY]
    layer = ui.loaded.tree.network_layer_mapping["diffusion_model_input_blocks_1_1_proj_in"]
    save(ui.folder / "mine.safetensors", {MODULE: random_tensors("dora", tuple(before.shape))})
    wanted = ui.generate("mine")[KEY]
    ui.generate()
    x = torch.randn(1, before.shape[1], 4, 4)

    def run(*prompt: str) -> torch.Tensor:
        ui.activate(*prompt)
        with torch.no_grad():
            return ui.networks.network_forward(layer, x, nn.Conv2d.forward)

    assert torch.equal(run("mine"), F.conv2d(x, wanted, layer.bias))
    assert torch.equal(run(), F.conv2d(x, before, layer.bias))


def test_fp8_layers_are_patched_from_the_half_precision_values_kept_beside_them(
    ui: A1111UI, bases: dict[str, Path]
) -> None:
    exact = ui.load_checkpoint(bases["sd15"], "sd15", torch.float16).weights()[KEY]
    layer = ui.loaded.tree.network_layer_mapping["diffusion_model_input_blocks_1_1_proj_in"]
    layer.fp16_weight = layer.weight.data.clone()
    layer.weight = nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    stored = layer.weight.clone()
    save(ui.folder / "mine.safetensors", {MODULE: {"diff": torch.full_like(exact, 1 / 64)}})
    found = ui.generate("mine")[KEY]
    assert found.dtype == torch.float8_e4m3fn
    assert torch.equal(found.float(), (exact.float() + 1 / 64).to(torch.float8_e4m3fn).float())
    assert not torch.equal(found.float(), (stored.float() + 1 / 64).to(torch.float8_e4m3fn).float())
    assert torch.equal(ui.generate()[KEY].float(), stored.float())


def test_embeddings_bundled_with_an_adapter_stay(ui: A1111UI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd15"], "sd15").weights()
    file = save(ui.folder / "mine.safetensors", {MODULE: random_tensors("lora", tuple(before[KEY].shape))})
    save_file({**load_file(file), "bundle_emb.word.clip_l": torch.ones(1, 32)}, file)
    found = ui.generate("mine")
    assert not torch.equal(found[KEY], before[KEY])
    assert [list(net.bundle_embeddings) for net in ui.networks.loaded_networks] == [["word"]]


def test_turning_the_loader_off_puts_back_also_what_only_we_patch(ui: A1111UI, bases: dict[str, Path]) -> None:
    before = ui.load_checkpoint(bases["sd2"], "sd2").weights()
    write_adapter(ui.folder / "mine.safetensors", bases["sd2"])
    ui.generate("mine")
    ui.chosen.enabled = False
    assert difference(ui.generate(), before) == 0.0


def test_nothing_of_ours_stays_after_removal(ui: A1111UI, bases: dict[str, Path]) -> None:
    loaded = ui.load_checkpoint(bases["sd2"], "sd2")
    before, attributes = loaded.weights(), {name for layer in loaded.tree.modules() for name in vars(layer)}
    write_adapter(ui.folder / "mine.safetensors", bases["sd2"], ("ia3",))
    ui.shared.opts.lora_in_memory_limit = 5
    ui.generate("mine")
    ui.host.remove_loader()
    assert ui.networks.loaded_networks == [] and ui.networks.networks_in_memory == {}
    added = {name for layer in loaded.tree.modules() for name in vars(layer)} - attributes
    assert all(name.startswith("network_") for name in added)  # the web UI's own
    assert difference(ui.generate(), before) == 0.0


def test_other_models_are_matched_by_the_web_uis_own_names_and_those_it_knows_from_diffusers(ui: A1111UI) -> None:
    block = "model.diffusion_model.joint_blocks.0.x_block"
    torch.manual_seed(0)
    tensors = {f"{block}.attn.qkv.weight": torch.randn(24, 8), f"{block}.attn.proj.weight": torch.randn(8, 8)}
    loaded: Any = ui._load(tensors, "sd3.safetensors", lambda live: live)
    fused = "diffusion_model_joint_blocks_0_x_block_attn_qkv"
    names = {"q": "to_q", "k": "to_k", "v": "to_v"}
    loaded.tree.diffusers_weight_mapping = lambda: [
        (f"transformer.transformer_blocks.0.attn.{name}", f"{fused}_{letter}_proj") for letter, name in names.items()
    ]
    attention, value = "lora_unet_joint_blocks_0_x_block_attn_proj", "transformer.transformer_blocks.0.attn.to_v"
    save(ui.folder / "mine.safetensors", {
        attention: {"diff": torch.ones(8, 8)},
        value: {"lora_B.weight": torch.ones(8, 1), "lora_A.weight": torch.ones(1, 8)},
    })  # fmt: skip
    found = ui.generate(("mine", 0.5))
    assert ui.loader.reports()[0].complete
    assert torch.equal(found[f"{block}.attn.proj.weight"], tensors[f"{block}.attn.proj.weight"] + 0.5)
    qkv = tensors[f"{block}.attn.qkv.weight"]
    assert torch.equal(found[f"{block}.attn.qkv.weight"], torch.cat([qkv[:16], qkv[16:] + 0.5]))
