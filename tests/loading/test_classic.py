"""What only Forge-classic has."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.loading.forge_ui import ForgeUI, expected, write_adapter
from tests.loading.web_uis import opened
from tests.support.checkpoints import write_random_checkpoint

PROJECTION = "clip_g.transformer.text_projection.weight"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("bases") / "sdxl.safetensors", "tiny-sdxl", torch.float32)


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[ForgeUI]:
    folder = tmp_path / "Lora"
    folder.mkdir()
    with opened("classic", folder) as started:
        yield started


def test_the_second_text_encoder_uses_the_patched_projection(ui: ForgeUI, sdxl: Path) -> None:
    model: Any = ui.load_checkpoint(sdxl, "sdxl")
    at_start = model.forge_objects.clip.cond_stage_model.clip_g.text_projection
    module: Any = importlib.import_module("modules_forge.forge_clip")
    encoder = module.CLIP_SD_XL_G(SimpleNamespace(text_projection=at_start), None)
    features = torch.randn(2, at_start.shape[0])
    file = write_adapter(ui.folder / "mine.safetensors", sdxl)
    ui.generate("mine")
    patched = expected(sdxl, "sdxl", (file, 1.0))[PROJECTION]
    assert torch.allclose(encoder.encode_with_transformers(features), features @ patched.T, atol=1e-5)
    ui.generate()
    assert torch.equal(encoder.encode_with_transformers(features), features @ at_start)
    ui.generate("mine")
    ui.host.remove_loader()
    assert torch.equal(encoder.encode_with_transformers(features), features @ at_start)


def test_our_patch_type_is_unknown_again_after_removal(ui: ForgeUI) -> None:
    calculators = importlib.import_module("ldm_patched.modules.model_patcher").extra_weight_calculators
    assert len(calculators) == 1
    ui.host.remove_loader()
    assert calculators == {}


def test_the_web_uis_cache_of_files_can_still_be_cleared(ui: ForgeUI) -> None:
    ui.networks.load_lora_state_dict.cache_clear()
    assert ui.networks.load_lora_state_dict.cache_info().currsize == 0
