"""What `inspect` says of a file is what was put into it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.inspect import describe, text
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.merge import merge
from adapter_lab.adapters.provenance import SOURCES
from adapter_lab.errors import FileFormatError
from adapter_lab.hosts.loading.described import described, in_words
from tests.adapters.layouts import real_shapes
from tests.adapters.lycoris_modules import CASES, LAYERS, file_tensors, trained
from tests.adapters.random_adapter import random_tensors

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"dim": 3, "alpha": 2.0, "tucker": False}),
    "lora tucker": ("lora", {"dim": 3, "alpha": 2.0, "tucker": True}),
    "lora dora-input": ("lora", {"dim": 3, "alpha": 2.0, "tucker": False, "dora": "input"}),
    "loha tucker": ("loha", {"dim": 3, "alpha": 2.0, "tucker": True}),
    "lokr": ("lokr", {"dim": 3, "alpha": 2.0, "factor": [4, 4], "tucker": False, "full_matrix": False}),
    "lokr factor-0": ("lokr", {"dim": 3, "alpha": 2.0, "factor": [1, 1]}),
    "lokr full-matrix": ("lokr", {"factor": [4, 4], "full_matrix": True}),
    "lokr decompose-both": ("lokr", {"dim": 1, "alpha": 2.0, "factor": [4, 4], "decompose_both": True}),
    "glora": ("glora", {"dim": 3, "alpha": 2.0}),
    "diag-oft constraint": ("diag-oft", {"dim": 4, "constraint": 0.01, "rescaled": False}),
    "boft rescaled": ("boft", {"dim": 8, "constraint": 0.0, "rescaled": True}),
    "ia3 input": ("ia3", {"train_on_input": True}),
    "full": ("full", {"bias": True}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_read_back_from_the_tensors(name: str, tmp_path: Path) -> None:
    algorithm, options = OPTIONS[name]
    tensors = file_tensors(trained(CASES[name], LAYERS["conv3x3"](True)))
    module = "lora_unet_input_blocks_1_0_in_layers_2"
    save_adapter(tmp_path / "a.safetensors", {f"{module}.{suffix}": t for suffix, t in tensors.items()}, {})
    found = describe(tmp_path / "a.safetensors", modules=True)
    assert found["algorithms"] == {algorithm: 1}
    for source in (found["groups"][0], found["module_list"][module]):
        assert {key: source[key] for key in options} == options


def test_a_whole_file_is_summed_up(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    count = {"unet": 0, "te1": 0, "te2": 0}
    for name, target in targets(real_shapes("sdxl")).items():
        if target.role == "attention" and ("_0_" in name):
            count[target.part] += 1
            found = random_tensors("lora", target.shape, rank=4)
            tensors |= {f"{name}.{suffix}": tensor.half() for suffix, tensor in found.items()}
    tensors["extra"] = torch.zeros(1)
    path = tmp_path / "mine-000400.safetensors"
    save_adapter(path, tensors, {"ss_sd_model_name": "base.safetensors", "ss_tag_frequency": "{}"})
    found = describe(path)
    assert found["parts"] == count
    assert found["families"] == ["sdxl"]
    assert found["step"] == 400 and found["name"] == "mine-000400" and found["base_model"] == "base.safetensors"
    assert found["groups"] == [
        {"algorithm": "lora", "dim": 4, "alpha": 2.0, "tucker": False, "modules": sum(count.values())}
    ]
    assert found["bytes"] == path.stat().st_size
    assert found["parameters"] == sum(t.numel() for key, t in tensors.items() if key.endswith("weight"))
    assert list(found["unknown"]) == ["extra"]
    assert json.loads(json.dumps(found)) == found
    said = text(found)
    whole = describe(path, modules=True)
    assert len(whole["module_list"]) == found["modules"]
    assert all(f"  {name}: algorithm lora" in text(whole) for name in whole["module_list"])
    assert str(path) in said and "dim 4" in said and "for SDXL:" in said and "step 400" in said and "extra" in said


@pytest.mark.parametrize(
    ("metadata", "families"),
    [
        ({}, ["sd15", "sd2", "sdxl"]),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, ["sdxl"]),
        ({"ss_base_model_version": "sd_v1"}, ["sd15"]),
        ({"ss_v2": "True"}, ["sd2"]),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, ["sdxl"]),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, ["sd2"]),
    ],
)
def test_the_family_is_read_from_metadata_where_names_do_not_tell(
    metadata: dict[str, str], families: list[str], tmp_path: Path
) -> None:
    tensors = {"lora_unet_middle_block_0_in_layers_2.diff": torch.zeros(4, 4, 3, 3)}
    save_adapter(tmp_path / "a.safetensors", tensors, metadata)
    assert describe(tmp_path / "a.safetensors")["families"] == families


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, "sd2"), (2048, "sdxl")])
@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "glora", "full"])
def test_the_family_is_read_from_the_width_of_the_text_features(
    algorithm: str, width: int, family: str, tmp_path: Path
) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{name}.{suffix}": t for suffix, t in random_tensors(algorithm, (1280, width)).items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    assert describe(tmp_path / "a.safetensors")["families"] == [family]


def test_what_a_file_was_made_from_is_said(tmp_path: Path) -> None:
    name = "lora_unet_middle_block_0_in_layers_2"
    tensors = {f"{name}.{suffix}": t for suffix, t in random_tensors("lora", (1280, 1280, 3, 3)).items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {"ss_sd_model_name": "base.safetensors"})
    merge([(tmp_path / "a.safetensors", 0.5)], tmp_path / "b.safetensors")
    found = describe(tmp_path / "b.safetensors")
    assert found["made_from"]["how"] == "merge" and found["made_from"]["files"][0]["strength"] == 0.5
    assert "made by merge from a.safetensors at 0.5" in text(found) and "trained on base.safetensors" in text(found)
    save_adapter(tmp_path / "a.safetensors", tensors, {SOURCES: json.dumps({"files": [1, {}], "how": None})})
    assert "made by" in text(describe(tmp_path / "a.safetensors"))


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", {"model.diffusion_model.out.2.weight": torch.zeros(1)}, {})
    with pytest.raises(FileFormatError, match="checkpoint"):
        describe(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix, value", [("lora_up.weight", math.nan), ("alpha", math.inf)])
def test_numbers_that_cannot_be_used_are_said(suffix: str, value: float, tmp_path: Path) -> None:
    tensors = {
        f"lora_unet_input_blocks_{block}_1_proj_in.{name}": tensor
        for block in (4, 5)
        for name, tensor in random_tensors("lora", (64, 64)).items()
    }
    tensors[f"lora_unet_input_blocks_4_1_proj_in.{suffix}"] *= value
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    found = described(tmp_path / "a.safetensors")
    [reason] = found["broken"].values()
    assert "holds NaN or infinity" in reason and "cannot be used" in in_words(found)
