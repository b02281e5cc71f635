"""What a trained file calls its layers, and that training goes on from files under older names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.config import NetworkConfig
from adapter_lab.training.network.network import build_network
from tests.support.checkpoints import tiny_layout, tiny_modules

DIFFUSERS = ("lora_unet_down_blocks_0_attentions_0_", "lora_unet_mid_block_", "lora_unet_up_blocks_", "lora_te_")
LDM = ("lora_unet_input_blocks_4_1_", "lora_unet_middle_block_", "lora_unet_output_blocks_", "lora_te1_", "lora_te2_")
BEGINNINGS = {"sd15": DIFFUSERS, "sd2": DIFFUSERS, "sdxl": LDM}


@pytest.mark.parametrize("family", BEGINNINGS)
def test_trained_files_have_the_names_that_most_programs_read(family: str, tmp_path: Path) -> None:
    """sd-scripts' own: diffusers' modules for SD1.5 and SD2, LDM's for SDXL. Files under LDM names are gone on with."""
    unet, _, encoders = tiny_modules(family, 0)
    parts, table = {"unet": unet, **encoders}, targets(tiny_layout(family))
    config = NetworkConfig(dim=2, alpha=1.0, train_te=True, conv_dim=2)
    network = build_network(config, table, parts, seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape))
    tensors = network.adapter_tensors()
    names = {key.partition(".")[0] for key in tensors}
    for beginning in BEGINNINGS[family]:
        assert any(name.startswith(beginning) for name in names), beginning
    assert names == {plan.target.kohya for plan in network.plans}
    assert set(tensors) == {key for plan in network.plans for key in plan.file_layout}

    ldm = {plan.target.kohya: plan.name for plan in network.plans}
    older = {f"{ldm[name]}.{suffix}": tensors[key] for key in tensors for name, _, suffix in [key.partition(".")]}
    save_adapter(tmp_path / "older.safetensors", older, {})
    save_adapter(tmp_path / "now.safetensors", tensors, {})
    assert len(AdapterFile.open(tmp_path / "now.safetensors").modules) == len(network.plans)
    for file in ("older", "now"):
        config.start_from = str(tmp_path / f"{file}.safetensors")
        again = build_network(config, table, parts, seed=2).adapter_tensors()
        for key, tensor in tensors.items():
            torch.testing.assert_close(again[key], tensor)
