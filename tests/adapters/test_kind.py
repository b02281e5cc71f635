"""The type of a file as people call it, from its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.adapters.kind import Kind, fits, kind_of, labels
from tests.adapters.layouts import real_shapes
from tests.adapters.lycoris_modules import CASES, LAYERS, file_tensors, trained
from tests.adapters.random_adapter import random_tensors

QUERY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
CONVOLUTION = "lora_unet_input_blocks_1_0_in_layers_2"
ENCODER = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
TABLE: dict[str, Target] = targets(real_shapes("sdxl"))

# LyCORIS's case -> (name, dim, what else is true)
LYCORIS: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "lora": ("LoRA", 3, {}),
    "lora dora-output": ("LoRA DoRA", 3, {"dora": True}),
    "loha": ("LoHa", 3, {}),
    "lokr": ("LoKr f4", 3, {}),
    "lokr full-matrix": ("LoKr f4 full", None, {"full_matrix": True}),
    "glora": ("GLoRA", 3, {}),
    "diag-oft": ("diag-OFT", 4, {}),
    "boft": ("BOFT", 8, {}),
    "ia3 input": ("IA3", None, {}),
    "full": ("full", None, {}),
}


def saved(path: Path, modules: dict[str, dict[str, Tensor]], metadata: dict[str, str] | None = None) -> Kind:
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path, tensors, metadata or {})
    return kind_of(AdapterFile.open(path))


@pytest.mark.parametrize("case", LYCORIS)
def test_files_of_lycoris_are_named(case: str, tmp_path: Path) -> None:
    name, dim, true = LYCORIS[case]
    found = saved(tmp_path / "a.safetensors", {QUERY: file_tensors(trained(CASES[case], LAYERS["linear"](True)))})
    assert (found.name, found.dim) == (name, dim)
    assert all(getattr(found, option) == value for option, value in true.items())


def test_a_lora_with_convolutions_is_a_locon_and_text_encoders_are_told(tmp_path: Path) -> None:
    modules = {name: random_tensors("lora", TABLE[name].shape, 8) for name in (QUERY, ENCODER)}
    assert saved(tmp_path / "a.safetensors", modules) == Kind("lora", 8, text_encoder=True)
    modules[CONVOLUTION] = random_tensors("lora", TABLE[CONVOLUTION].shape, 8)
    found = saved(tmp_path / "b.safetensors", modules)
    assert found.name == "LoCon" and found.text_encoder and found.convolutions
    peft = {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": {
        "lora_A.weight": torch.zeros(8, 640), "lora_B.weight": torch.zeros(640, 8)}}  # fmt: skip
    assert saved(tmp_path / "c.safetensors", peft) == Kind("lora", 8)


@pytest.mark.parametrize(("factor", "name"), [("-1", "LoKr"), ("0", "LoKr f0"), ("2", "LoKr f2"), (None, "LoKr f2")])
def test_the_factor_is_what_was_asked_for(factor: str | None, name: str, tmp_path: Path) -> None:
    modules = {name: random_tensors("lokr", TABLE[name].shape) for name in (QUERY, ENCODER)}
    told = {} if factor is None else {"ss_network_args": json.dumps({"algo": "lokr", "factor": factor})}
    assert saved(tmp_path / "a.safetensors", modules, told).name == name


def test_factors_that_differ_by_layer_were_left_to_lycoris(tmp_path: Path) -> None:
    sizes = {QUERY: (16, 20), ENCODER: (24, 32), CONVOLUTION: (10, 12)}
    modules = {
        name: {"lokr_w1": torch.zeros(*size), "lokr_w2": torch.zeros(4, 4, *([3, 3] if name == CONVOLUTION else []))}
        for name, size in sizes.items()
    }
    assert saved(tmp_path / "a.safetensors", modules).factor == -1


def test_names_are_as_short_as_they_can_be() -> None:
    plain, text = Kind("lora", 32), Kind("lora", 32, text_encoder=True)
    large, small = Kind("loha", 16, text_encoder=True), Kind("loha", 6, text_encoder=True)
    lokr = Kind("lokr", 32, factor=4)
    assert labels([plain, text, large, small, lokr]) == {
        plain: "LoRA", text: "LoRA+TE", large: "LoHa 16", small: "LoHa 6", lokr: "LoKr f4",
    }  # fmt: skip
    assert labels([text, lokr, Kind("lokr", 8, factor=4)])[lokr] == "LoKr f4 32"
    assert set(labels([plain, text, Kind("lora", 8)]).values()) == {"LoRA 32", "LoRA 32+TE", "LoRA 8"}


@pytest.mark.parametrize(
    ("written", "kind", "means"),
    [
        ("lokr f4", Kind("lokr", 32, factor=4), True),
        ("LoKr", Kind("lokr", 32, factor=4), True),
        ("LoKr f2", Kind("lokr", 32, factor=4), False),
        ("LoKr full matrix", Kind("lokr", None, factor=-1, full_matrix=True), True),
        ("OFT", Kind("diag-oft", 4), True),
        ("loha dim 16", Kind("loha", 16), True),
        ("LoHa 6", Kind("loha", 16), False),
        ("LoRA", Kind("lora", 32, convolutions=True), False),
        ("locon", Kind("lora", 32, convolutions=True), True),
        ("LoRA+TE", Kind("lora", 32, text_encoder=True), True),
        ("LoRA+TE", Kind("lora", 32), False),
        ("", Kind("lora", 32), False),
    ],
)
def test_what_people_write_means_a_type(written: str, kind: Kind, means: bool) -> None:
    assert fits(kind, written) is means
