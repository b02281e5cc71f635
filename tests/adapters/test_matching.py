"""Modules of adapter files matched to weights: by our tables, by a web UI's own names, and with a reason where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.matching import match, plain_targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import FileFormatError
from tests.adapters.layouts import real_shapes
from tests.adapters.random_adapter import random_tensors

QUERY = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
# The names a web UI has for two fused layers of a transformer, as ComfyUI spells them.
FLUX_SHAPES = {
    "diffusion_model.double_blocks.0.img_attn.qkv.weight": (96, 32),
    "diffusion_model.double_blocks.0.img_attn.qkv.bias": (96,),
    "diffusion_model.img_in.weight": (32, 16),
    "diffusion_model.patch.weight": (32, 16, 1, 2, 2),
}
FLUX_NAMES: dict[str, Any] = {
    "lora_unet_double_blocks_0_img_attn_qkv": "diffusion_model.double_blocks.0.img_attn.qkv.weight",
    "transformer.transformer_blocks.0.attn.to_k": (
        "diffusion_model.double_blocks.0.img_attn.qkv.weight",
        (32, 64),
    ),
    "lora_unet_img_in": "diffusion_model.img_in.weight",
    "lora_unet_patch": "diffusion_model.patch.weight",
    "lora_unet_gone": "diffusion_model.gone.weight",
}


def adapter(path: Path, modules: dict[str, dict[str, Tensor]]) -> AdapterFile:
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path / "a.safetensors", tensors, {})
    return AdapterFile.open(path / "a.safetensors")


def test_names_of_a_web_ui_lead_to_weights_and_rows_of_a_model_we_have_no_table_for(tmp_path: Path) -> None:
    table = plain_targets(FLUX_NAMES, FLUX_SHAPES)
    file = adapter(
        tmp_path,
        {
            "lora_unet_double_blocks_0_img_attn_qkv": random_tensors("lora", (96, 32), bias=True),
            "transformer.transformer_blocks.0.attn.to_k": random_tensors("loha", (32, 32)),
            "lora_unet_img_in": {**random_tensors("full", (32, 16), bias=True)},
        },
    )
    found = match(file, table, None, "a Flux model")
    places = {one.name: (one.target.key, one.target.rows, one.target.bias_key) for one in found.matches}
    qkv = "diffusion_model.double_blocks.0.img_attn.qkv"
    assert places == {
        "lora_unet_double_blocks_0_img_attn_qkv": (f"{qkv}.weight", None, f"{qkv}.bias"),
        "transformer.transformer_blocks.0.attn.to_k": (f"{qkv}.weight", (32, 64), f"{qkv}.bias"),
        "lora_unet_img_in": ("diffusion_model.img_in.weight", None, None),
    }
    assert found.not_applied == {"lora_unet_img_in (bias)": "the base's layer has no bias"}


@pytest.mark.parametrize(
    "spelled", ["transformer.transformer_blocks.0.attn.to_k", "transformer_transformer_blocks_0_attn_to_k"]
)
def test_dots_and_underscores_are_the_same_in_plain_names(spelled: str, tmp_path: Path) -> None:
    file = adapter(tmp_path, {spelled: random_tensors("lora", (32, 32))})
    found = match(file, plain_targets(FLUX_NAMES, FLUX_SHAPES), None, "a Flux model")
    assert [one.target.rows for one in found.matches] == [(32, 64)]


def test_weights_that_are_missing_or_no_layers_are_no_plain_targets() -> None:
    assert "lora_unet_gone" not in plain_targets(FLUX_NAMES, FLUX_SHAPES)
    assert "lora_unet_patch" not in plain_targets(FLUX_NAMES, FLUX_SHAPES)


def test_a_file_of_any_family_is_tried_on_a_model_of_none(tmp_path: Path) -> None:
    file = adapter(tmp_path, {"lora_te2_x": random_tensors("lora", (32, 16)), QUERY: random_tensors("lora", (8, 8))})
    with pytest.raises(FileFormatError, match="none of its 2 modules could be applied, lora_te2_x because the base"):
        match(file, plain_targets(FLUX_NAMES, FLUX_SHAPES), None, "a Flux model")


def test_a_file_of_another_family_is_refused_by_name(tmp_path: Path) -> None:
    file = adapter(tmp_path, {"lora_te2_text_model_encoder_layers_0_mlp_fc1": random_tensors("lora", (32, 16))})
    with pytest.raises(FileFormatError) as raised:
        match(file, targets(real_shapes("sd15")), "sd15", "my checkpoint")
    assert str(raised.value) == (
        f"{file.path} was trained for SDXL or Stable Diffusion 3, but my checkpoint is an SD1.5 checkpoint; "
        "choose an adapter of the same family."
    )


def test_a_module_whose_tensors_do_not_belong_together_costs_only_itself(tmp_path: Path) -> None:
    table = targets(real_shapes("sd15"))
    broken = random_tensors("lora", table[QUERY].shape)
    broken["lora_up.weight"] = broken["lora_up.weight"][:, :1]
    good = QUERY.replace("to_q", "to_k")
    file = adapter(tmp_path, {QUERY: broken, good: random_tensors("lora", table[good].shape)})
    found = match(file, table, "sd15", "base")
    assert found.applied == [good]
    assert "do not belong together" in found.not_applied[QUERY]


IMPOSSIBLE: dict[str, tuple[str, dict[str, Tensor]]] = {
    "a factor that is one number": (
        QUERY, {"lora_up.weight": torch.ones(320, 1), "lora_down.weight": torch.tensor(1.0)}
    ),
    "magnitudes over a norm layer": (
        "lora_unet_out_0", {"w_norm": torch.ones(320), "b_norm": torch.ones(320), "dora_scale": torch.ones(320, 1)}
    ),
    "factors of another kernel": (
        "lora_unet_out_2", {"lora_up.weight": torch.ones(4, 2, 1, 1), "lora_down.weight": torch.ones(2, 320, 5, 5)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_shapes_cost_only_their_module(case: str, tmp_path: Path) -> None:
    name, tensors = IMPOSSIBLE[case]
    table = targets(real_shapes("sd15"))
    good = QUERY.replace("to_q", "to_v")
    found = match(
        adapter(tmp_path, {name: tensors, good: random_tensors("lora", table[good].shape)}), table, "sd15", "base"
    )
    assert found.applied == [good] and list(found.not_applied) == [name]


def test_only_single_numbers_are_read_beside_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = targets(real_shapes("sd15"))
    file = adapter(tmp_path, {QUERY: random_tensors("lora", table[QUERY].shape)})
    read: list[str] = []
    original = TensorFile.read_many

    def counted(self: TensorFile, keys: Any) -> dict[str, Tensor]:
        read.extend(keys := list(keys))
        return original(self, keys)

    monkeypatch.setattr(TensorFile, "read_many", counted)
    match(file, table, "sd15", "base")
    assert read == [f"{QUERY}.alpha"]


def test_tensors_of_no_known_algorithm_are_told(tmp_path: Path) -> None:
    table = targets(real_shapes("sd15"))
    file = adapter(tmp_path, {QUERY: random_tensors("lora", table[QUERY].shape), "emb": {"vector": torch.zeros(2)}})
    assert match(file, table, "sd15", "base").unknown == ["emb.vector"]
