"""The loaded model's targets under the web UI's own keys, in every layout web UIs keep models in."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from adapter_lab.adapters.keys import Target, targets
from adapter_lab.hosts.loading.base_model import BaseModel, BaseModels, checkpoint_base, comfy_base
from tests.adapters.layouts import real_shapes

FAMILIES = ("sd15", "sd2", "sdxl")
PREFIX = {"te1": {"sd15": "clip_l", "sd2": "clip_h", "sdxl": "clip_l"}, "te2": {"sdxl": "clip_g"}}


def comfy_shapes(family: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """State dict shapes of a UNet and text encoders as web UIs with ComfyUI's layout have them."""
    shapes = real_shapes(family)
    unet = {key.removeprefix("model."): shape for key, shape in shapes.items() if key.startswith("model.")}
    text: dict[str, tuple[int, ...]] = {}
    for target in targets(shapes, "sd15" if family == "sd2" else None).values():
        if target.part != "unet":
            path = f"{PREFIX[target.part][family]}.transformer.{target.module}"
            text[f"{path}.weight"] = target.shape
            if target.bias_key:
                text[f"{path}.bias"] = target.shape[:1]
    return unet, text


def no_names() -> dict[str, Any]:
    raise AssertionError("only models of other families need the web UI's names")


def described(table: dict[str, Target]) -> dict[str, Any]:
    return {name: (target.part, target.kind, target.shape, bool(target.bias_key)) for name, target in table.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_comfy_layouts_have_every_target_of_the_checkpoint(family: str) -> None:
    unet, text = comfy_shapes(family)
    base = comfy_base("my model", unet, text, no_names)
    assert (base.name, base.family) == ("my model", family)
    assert described(base.table) == described(targets(real_shapes(family)))
    for target in base.table.values():
        assert {**unet, **text}[target.key] == target.shape and target.rows is None and not target.transposed
        assert target.bias_key is None or target.bias_key == target.key.removesuffix("weight") + "bias"


def test_names_of_text_encoders_lead_to_the_right_one() -> None:
    table = comfy_base("my model", *comfy_shapes("sdxl"), no_names).table
    name = "text_model_encoder_layers_3_mlp_fc1"
    assert table[f"lora_te1_{name}"].key == "clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    assert table[f"lora_te2_{name}"].key == "clip_g.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    assert table["lora_unet_input_blocks_0_0"].key == "diffusion_model.input_blocks.0.0.weight"


def test_a_projection_kept_as_a_parameter_is_transposed() -> None:
    unet, text = comfy_shapes("sdxl")
    shape = text.pop("clip_g.transformer.text_projection.weight")
    base = comfy_base("my model", unet, {**text, "clip_g.text_projection": shape}, no_names)
    target = base.table["lora_te2_text_projection"]
    assert (target.key, target.transposed) == ("clip_g.text_projection", True)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoints_names_are_found_through_wrappers(family: str, wrapped: bool) -> None:
    shapes = real_shapes(family)
    if wrapped:
        for prefix in ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1."):
            shapes = {key.replace(prefix, f"{prefix}wrapped."): shape for key, shape in shapes.items()}
    base = checkpoint_base("my model", shapes)
    assert base is not None and base.family == family
    assert described(base.table) == described(targets(real_shapes(family)))
    assert all(target.key in shapes for target in base.table.values())


def test_another_model_is_matched_by_the_names_the_web_ui_has() -> None:
    unet = {"diffusion_model.double_blocks.0.qkv.weight": (96, 32), "diffusion_model.img_in.weight": (32, 16)}
    names = {
        "lora_unet_img_in": "diffusion_model.img_in.weight",
        "transformer.to_q": ("diffusion_model.double_blocks.0.qkv.weight", (0, 0, 32)),
        "by columns": ("diffusion_model.img_in.weight", (1, 0, 8)),
        "turned": ("diffusion_model.img_in.weight", (0, 0, 8), lambda weight: weight),
    }
    base = comfy_base("my model", unet, {}, lambda: names)
    assert base.family is None
    assert {name: (target.key, target.rows) for name, target in base.table.items()} == {
        "lora_unet_img_in": ("diffusion_model.img_in.weight", None),
        "transformer.to_q": ("diffusion_model.double_blocks.0.qkv.weight", (0, 32)),
    }
    assert checkpoint_base("my model", {f"model.{key}": shape for key, shape in unet.items()}) is None


def test_the_refiner_is_not_taken_for_sdxl() -> None:
    unet, text = comfy_shapes("sdxl")
    only_second = {key: shape for key, shape in text.items() if key.startswith("clip_g.")}
    assert comfy_base("refiner", unet, only_second, dict).family is None
    assert comfy_base("UNet alone", unet, {}, no_names).family == "sdxl"


class Module:
    """Something that can be referred to weakly."""


def test_a_table_is_made_once_while_its_model_lives() -> None:
    made: list[BaseModel] = []

    def make() -> BaseModel:
        made.append(comfy_base("my model", {"diffusion_model.x.weight": (2, 2)}, {}, dict))
        return made[-1]

    bases, unet, text = BaseModels(), Module(), Module()
    assert bases.of((unet, text), make) is bases.of((unet, text), make)
    assert len(made) == 1
    assert bases.of((unet,), make) is not bases.of((unet, text), make)
    del unet
    gc.collect()
    bases.of((Module(), text), make)
    assert len(made) == 3


def test_tables_of_only_a_few_models_are_kept() -> None:
    bases = BaseModels()
    modules = [Module() for _ in range(20)]
    for module in modules:
        bases.of((module,), lambda: comfy_base("my model", {}, {}, dict))
    assert len(bases._kept) <= 4
