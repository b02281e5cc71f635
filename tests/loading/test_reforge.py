"""reForge alone: weights computed each time they are used, where the GPU is too small for them."""

from __future__ import annotations

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
    with importable("reforge"):
        started = ForgeUI("reforge", tmp_path)
        yield started
        started.host.remove_loader()


def test_a_weight_computed_when_it_is_used_is_patched_in_fp32(ui: ForgeUI) -> None:
    torch.manual_seed(1)
    save(ui.folder / "a.safetensors", {MODULE: random_tensors("dora", SHAPE)})
    save(ui.folder / "b.safetensors", {MODULE: random_tensors("boft", SHAPE)})
    stored = torch.randn(SHAPE).to(torch.float16)
    model = ui.load({KEY: stored})
    ui.networks.load_networks(["a", "b"], [0.7, 0.4], [0.7, 0.4])
    model.forge_objects.unet.load(lowvram_model_memory=1)
    layer, _ = model.parents()[KEY]
    (function,) = layer.weight_function
    used = function(stored.clone())
    ui.load({KEY: stored.float()}, "fp32")
    assert torch.equal(used, ui.generate(("a", 0.7), ("b", 0.4))[KEY].to(torch.float16))
