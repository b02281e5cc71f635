"""Every name of every spelling finds the weight it means, in the real layouts of SD1.5, SD2 and SDXL."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from adapter_lab.adapters.keys import family_of, resolve, targets, text_encoder_parameters, unet_module_paths
from adapter_lab.errors import FileFormatError
from tests.adapters.layouts import real_shapes

FAMILIES = ("sd15", "sd2", "sdxl")
CROSS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
ENCODERS: dict[str, dict[str, tuple[Any, dict[str, int]]]] = {
    "sd15": {"te1": (CLIPTextModel, CLIP_L)},
    "sd2": {"te1": (CLIPTextModel, CLIP_H)},
    "sdxl": {"te1": (CLIPTextModel, CLIP_L), "te2": (CLIPTextModelWithProjection, {**CLIP_G, "projection_dim": 1280})},
}


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_read_from_tensor_names(family: str) -> None:
    shapes = real_shapes(family)
    assert family_of(shapes) == family
    if family != "sdxl":  # without its text encoder the form of the projections tells
        assert family_of({k: s for k, s in shapes.items() if not k.startswith("cond_stage_model.")}) == family


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["first_stage_model.encoder.conv_in.weight"], "no checkpoint of SD1.5"),
        (
            [
                "model.diffusion_model.input_blocks.0.0.weight",
                "model.diffusion_model.label_emb.0.0.weight",
                "conditioner.embedders.0.model.ln_final.weight",
            ],
            "refiner",
        ),
    ],
)
def test_other_models_are_refused_by_name(keys: list[str], word: str) -> None:
    with pytest.raises(FileFormatError, match=word):
        family_of(dict.fromkeys(keys, (1,)))


@pytest.mark.parametrize("family", FAMILIES)
def test_unet_paths_cover_exactly_the_diffusers_unet(family: str) -> None:
    shapes = real_shapes(family)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[family])
    renamed = {
        f"{module}.{kind}": shapes[key]
        for ldm, module in unet_module_paths(shapes).items()
        for kind in ("weight", "bias")
        if (key := f"model.diffusion_model.{ldm}.{kind}") in shapes
    }
    assert renamed == shapes_of(unet)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoder_parameters_cover_exactly_the_transformers_models(family: str) -> None:
    shapes = real_shapes(family)
    found = text_encoder_parameters(shapes)
    assert set(found) == set(ENCODERS[family])
    for part, (model, config) in ENCODERS[family].items():
        with torch.device("meta"):
            expected = shapes_of(model(CLIPTextConfig(**config)))
        # transformers 5 dropped `text_model.` inside CLIPTextModel
        expected = {
            name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": shape
            for name, shape in expected.items()
            if not name.endswith("position_ids")
        }
        taken = {}
        for name, source in found[part].items():
            shape = shapes[source.key]
            if source.rows:
                shape = (source.rows[1] - source.rows[0], *shape[1:])
            taken[name] = shape[::-1] if source.transposed else shape
        assert taken == expected


def test_sdxl_targets_by_part_and_role() -> None:
    roles = Counter((target.part, target.role) for target in targets(real_shapes("sdxl")).values())
    assert roles["unet", "attention"] == 560
    assert roles["unet", "feed_forward"] == 140
    assert roles["unet", "projection"] == 22
    assert roles["unet", "conv"] == 49
    assert roles["unet", "time_embedding"] == 17
    assert roles["te1", "attention"] + roles["te1", "feed_forward"] == 72
    assert roles["te2", "attention"] + roles["te2", "feed_forward"] == 192


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_a_target_once_except_embeddings_and_unused_layers(family: str) -> None:
    shapes = real_shapes(family)
    covered = Counter()
    for target in targets(shapes).values():
        covered[target.key, target.rows] += 1
        assert target.bias_key is None or target.bias_key in shapes
        assert target.kind == {1: "norm", 2: "linear", 4: "conv"}[len(target.shape)]
    assert set(covered.values()) == {1}
    text = tuple(p for p in ("cond_stage_model.", "conditioner.embedders."))
    missed = {
        key
        for key in shapes
        if key.startswith(("model.diffusion_model.", *text))
        and not key.endswith("bias")
        and not any((key, rows) in covered for rows in (None, *(r for k, r in covered if k == key)))
    }
    allowed = ("embedding", "logit_scale", "position_ids")
    unused = ("resblocks.23.", "text_projection") if family == "sd2" else ()
    assert all(any(word in key for word in (*allowed, *unused)) for key in missed), missed


def test_fused_rows_and_transposed_projection_of_open_clip() -> None:
    table = targets(real_shapes("sdxl"))
    values = table["lora_te2_text_model_encoder_layers_3_self_attn_v_proj"]
    assert values.key == "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    assert values.bias_key == "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_bias"
    assert (values.rows, values.shape, values.transposed) == ((2560, 3840), (1280, 1280), False)
    projection = table["lora_te2_text_projection"]
    assert projection.transposed and projection.module == "text_projection" and projection.bias_key is None


SPELLINGS = {
    "sdxl": [
        ("lora_unet_input_blocks_4_1_proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("unet.down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("base_model.model.down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("unet.base_model.model.down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("base_model.model.unet.down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("diffusion_model.input_blocks.4.1.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("model.diffusion_model.input_blocks.4.1.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("oft_unet_input_blocks_4_1_proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("lycoris_down_blocks_1_attentions_0_proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "lora_unet_output_blocks_2_2_conv"),
        ("lora_unet_add_embedding_linear_1", "lora_unet_label_emb_0_0"),
        ("lora_unet_conv_norm_out", "lora_unet_out_0"),
        ("unet.mid_block.resnets.1.time_emb_proj", "lora_unet_middle_block_2_emb_layers_1"),
        (
            "unet.mid_block.attentions.0.transformer_blocks.9.attn2.processor.to_out_lora",
            "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_out_0",
        ),
        ("lora_te1_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder_2.text_model.encoder.layers.31.mlp.fc2", "lora_te2_text_model_encoder_layers_31_mlp_fc2"),
        ("text_encoder_2.encoder.layers.31.mlp.fc2", "lora_te2_text_model_encoder_layers_31_mlp_fc2"),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc2",
            "lora_te2_text_model_encoder_layers_31_mlp_fc2",
        ),
        ("text_encoder_2.text_projection", "lora_te2_text_projection"),
        ("text_model.encoder.layers.0.mlp.fc1", None),  # which of the two encoders?
        ("lora_unet_input_blocks_11_0_in_layers_2", None),
        ("lora_unet_double_blocks_0_img_attn_qkv", None),
    ],
    "sd15": [
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "lora_unet_input_blocks_3_0_op"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "lora_unet_output_blocks_2_1_conv"),
        ("lora_unet_up_blocks_3_resnets_2_conv_shortcut", "lora_unet_output_blocks_11_0_skip_connection"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc2", "lora_te_text_model_encoder_layers_11_mlp_fc2"),
        ("lora_te1_text_model_encoder_layers_11_mlp_fc2", "lora_te_text_model_encoder_layers_11_mlp_fc2"),
        ("lora_te_encoder_layers_11_mlp_fc2", "lora_te_text_model_encoder_layers_11_mlp_fc2"),
        ("text_encoder.text_model.encoder.layers.11.mlp.fc2", "lora_te_text_model_encoder_layers_11_mlp_fc2"),
        (
            "text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora",
            "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
        ),
        (
            "base_model.model.text_model.encoder.layers.0.self_attn.q_proj",
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        ),
    ],
}


@pytest.mark.parametrize("family", SPELLINGS)
def test_every_spelling_of_a_module_resolves_to_its_target(family: str) -> None:
    table = targets(real_shapes(family))
    for spelling, name in SPELLINGS[family]:
        target = resolve(spelling, table)
        assert (target and target.name) == name, spelling
        assert resolve(spelling, dict(table)) == target


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_targets_share_a_spelling(family: str) -> None:
    table = targets(real_shapes(family))
    for target in table.values():
        component = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}[target.part]
        short = target.module.removeprefix("text_model.")
        for spelling in (f"{component}.{target.module}", f"{component}.{short}", target.name):
            assert resolve(spelling, table) is target
