"""Layouts from in-tree configurations, and the name tables both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab.adapters.layouts import UNET, family_of, text_encoder_parameters, unet_module_paths
from adapter_lab.families import UNETS
from adapter_lab.training.bases.layout import layout
from adapter_lab.training.bases.names import (
    VAE,
    clip_ldm_name,
    open_clip_names,
    unet_ldm_paths,
    vae_ldm_paths,
    vae_module_paths,
)
from tests.support.checkpoints import tiny_layout
from tests.support.released import meta_text_encoders, meta_unet, meta_vae

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_layout_equals_the_released_files(family: str) -> None:
    expected = {name: tuple(shape) for name, shape in json.loads((LAYOUTS / f"{family}.json").read_text()).items()}
    assert layout(family) == expected


def test_sd2_layout_has_open_clip_with_its_unused_last_layer() -> None:
    shapes = layout("sd2")
    assert family_of(shapes) == "sd2"
    prefix = "cond_stage_model.model."
    assert shapes[f"{prefix}transformer.resblocks.23.attn.in_proj_weight"] == (3072, 1024)
    assert f"{prefix}transformer.resblocks.24.attn.in_proj_weight" not in shapes
    assert shapes["model.diffusion_model.input_blocks.1.1.proj_in.weight"] == (320, 320)
    assert shapes["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] == (320, 1024)


@pytest.mark.parametrize(
    "family, unet, vae, text",
    # Sizes as published with the models.
    [
        ("sd15", 859_520_964, 83_653_863, 123_060_480),
        ("sd2", 865_910_724, 83_653_863, 340_387_840),
        ("sdxl", 2_567_463_684, 83_653_863, 123_060_480 + 694_659_840),
    ],
)
def test_modules_without_weights_have_the_published_sizes(family: str, unet: int, vae: int, text: int) -> None:
    def count(module) -> int:
        assert all(parameter.is_meta for parameter in module.parameters())
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(meta_unet(family)) == unet
    assert count(meta_vae(family)) == vae
    assert sum(count(module) for module in meta_text_encoders(family).values()) == text


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@pytest.mark.parametrize("size", ["released", "tiny"])
def test_names_out_are_the_inverse_of_names_in(family: str, size: str) -> None:
    shapes = layout(family) if size == "released" else tiny_layout(family)
    inwards = unet_module_paths(shapes)
    modules = {key[len(UNET) :].rsplit(".", 1)[0] for key in shapes if key.startswith(UNET)}
    assert set(inwards) == modules
    assert unet_ldm_paths(inwards.values()) == {diffusers: ldm for ldm, diffusers in inwards.items()}
    vae_modules = {key[len(VAE) :].rsplit(".", 1)[0] for key in shapes if key.startswith(VAE)}
    vae_inwards = vae_module_paths(vae_modules)
    assert set(vae_inwards) == vae_modules
    assert vae_ldm_paths(vae_inwards.values()) == {diffusers: ldm for ldm, diffusers in vae_inwards.items()}


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@pytest.mark.parametrize("with_prefix", [True, False], ids=["transformers-4", "transformers-5"])
def test_text_names_out_are_the_inverse_of_names_in(family: str, with_prefix: bool) -> None:
    prefixes = {"te1": "conditioner.embedders.0.", "te2": "conditioner.embedders.1."}
    if family != "sdxl":
        prefixes = {"te1": "cond_stage_model."}
    for part, sources in text_encoder_parameters(tiny_layout(family)).items():
        names = {name if with_prefix else name.removeprefix("text_model."): source for name, source in sources.items()}
        if part == "te2" or family == "sd2":
            for ldm, parameters in open_clip_names(names).items():
                assert {names[parameter].key for parameter in parameters} == {prefixes[part] + ldm}
        else:
            for name, source in names.items():
                assert prefixes[part] + clip_ldm_name(name) == source.key


def test_every_family_row_is_complete() -> None:
    for name, row in UNETS.items():
        assert row.key == name and row.text_parts and row.text[0].activation
        assert set(row.versions) == set(row.architectures) == {"epsilon", "v_prediction", "flow"}
        assert row.vae["scaling_factor"] == row.latent.factor and row.vae["latent_channels"] == row.latent.channels
