"""Diffusers folders in all the forms they come in, and VAEs of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_lab.adapters.keys import targets
from adapter_lab.config import BaseConfig
from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases import Base, open_base, save_single_file
from tests.support.checkpoints import tiny_layout, tiny_metadata, tiny_modules, write_diffusers_folder

FAMILIES = ["sd15", "sd2", "sdxl"]


def _open(path: Path, **settings: str) -> Base:
    return open_base(BaseConfig(checkpoint=str(path), **settings))


def equal_states(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_and_single_file_of_one_pipeline_are_the_same_base(tmp_path: Path, family: str) -> None:
    folder = _open(write_diffusers_folder(tmp_path / "folder", family))
    unet, vae, encoders = tiny_modules(family)
    save_single_file(tmp_path / "one.safetensors", unet, vae, encoders, tiny_metadata(family))
    single = _open(tmp_path / "one.safetensors")
    assert folder.family == single.family == family
    extra = {"alphas_cumprod", "cond_stage_model.model.text_projection"}
    assert {k: s for k, s in folder.shapes.items() if k not in extra} == {
        k: s for k, s in single.shapes.items() if k not in extra
    }
    assert targets(folder.shapes) == targets(single.shapes)
    assert equal_states(folder.load_unet(torch.float32), single.load_unet(torch.float32))
    assert equal_states(folder.load_vae(torch.float32), single.load_vae(torch.float32))
    captions = ["a photo of a cat", ""]
    ours, theirs = (b.load_text_encoders(torch.float32).encode(captions, 2) for b in (folder, single))
    assert torch.equal(ours.hidden, theirs.hidden)
    assert (ours.pooled is None and theirs.pooled is None) or torch.equal(ours.pooled, theirs.pooled)
    assert folder.resolution == single.resolution == 64


@pytest.mark.parametrize(
    "variant, ending", [("fp16", ".safetensors"), ("", ".bin"), ("fp16", ".bin"), ("own", ".safetensors")]
)
def test_variants_of_file_names(tmp_path: Path, variant: str, ending: str) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sdxl", variant=variant, ending=ending)
    base = _open(folder)
    unet, _, encoders = tiny_modules("sdxl")
    assert equal_states(base.load_unet(torch.float32), unet)
    assert equal_states(base.load_text_encoders(torch.float32).parts["te2"], encoders["te2"])


def test_full_precision_is_preferred_to_a_variant(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sd15")
    half = write_diffusers_folder(tmp_path / "b", "sd15", variant="fp16", dtype=torch.float16)
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    (half / name).rename(folder / name)
    assert equal_states(_open(folder).load_unet(torch.float32), tiny_modules("sd15")[0])


def test_sharded_weights(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sdxl")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    names = sorted(state)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / "unet" / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    whole.unlink()
    base = _open(folder)
    assert equal_states(base.load_unet(torch.float32), tiny_modules("sdxl")[0])
    assert len(base.content_key) == 32


def test_old_attention_names_of_the_vae_and_old_text_encoder_buffers(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sd15")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = {}
    for key, tensor in load_file(file).items():
        for new_name, old_name in old.items():
            key = key.replace(new_name, old_name)
        state[key] = tensor
    assert any(".proj_attn." in key for key in state)
    save_file(state, file)
    text = folder / "text_encoder" / "model.safetensors"
    encoder = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in load_file(text).items()}
    save_file({**encoder, "text_model.embeddings.position_ids": torch.arange(77)[None]}, text)
    base = _open(folder)
    _, vae, encoders = tiny_modules("sd15")
    assert equal_states(base.load_vae(torch.float32), vae)
    assert equal_states(base.load_text_encoders(torch.float32).parts["te1"], encoders["te1"])


def test_folder_configuration_overrides_the_family(tmp_path: Path) -> None:
    """SD2 checkpoints exist with other activations; the folder's own word counts."""
    folder = write_diffusers_folder(tmp_path / "a", "sd2")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config["hidden_act"] = "quick_gelu"
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    assert _open(folder).load_text_encoders(torch.float32).parts["te1"].config.hidden_act == "quick_gelu"


@pytest.mark.parametrize("form", ["ldm-prefixed", "ldm", "ldm-ckpt", "diffusers-file", "vae-folder", "pipeline-folder"])
def test_separate_vae_replaces_the_checkpoints_own(tmp_path: Path, form: str) -> None:
    checkpoint = tmp_path / "base.safetensors"
    unet, vae, encoders = tiny_modules("sd15", seed=1)
    save_single_file(checkpoint, unet, vae, encoders, tiny_metadata("sd15"))
    pipeline = write_diffusers_folder(tmp_path / "other", "sd15", seed=2)
    other = tiny_modules("sd15", seed=2)[1]
    save_single_file(tmp_path / "other.safetensors", unet, other, encoders)
    prefixed = {
        k: t for k, t in load_file(tmp_path / "other.safetensors").items() if k.startswith("first_stage_model.")
    }
    bare = {key.removeprefix("first_stage_model."): tensor for key, tensor in prefixed.items()}
    path = tmp_path / "vae.safetensors"
    # A file alone cannot tell the number of groups of a tiny VAE; released ones all have 32.
    metadata = {"adapter_lab.architecture": json.dumps({"vae": {"norm_num_groups": 8}})}
    if form == "ldm-prefixed":
        save_file(prefixed, path, metadata)
    elif form == "ldm":
        save_file({**bare, "loss.logvar": torch.zeros(())}, path, metadata)
    elif form == "ldm-ckpt":
        path = tmp_path / "vae.ckpt"
        torch.save({"state_dict": bare}, path)
    elif form == "diffusers-file":
        save_file(load_file(pipeline / "vae" / "diffusion_pytorch_model.safetensors"), path, metadata)
    else:
        path = pipeline / "vae" if form == "vae-folder" else pipeline
    base = _open(checkpoint, vae=str(path))
    if form != "ldm-ckpt":  # a pickle cannot state the groups
        assert equal_states(base.load_vae(torch.float32), other)
        assert base.load_vae(torch.float32).config.norm_num_groups == 8
    assert base.vae_key != _open(checkpoint).vae_key
    assert any(str(path) in finding for finding in base.findings)
    assert base.metadata()["ss_vae_name"] == path.name


def test_checkpoint_without_vae_takes_a_separate_one(tmp_path: Path) -> None:
    from tests.support.checkpoints import write_random_checkpoint

    layout = tiny_layout("sdxl")
    vae = {key: shape for key, shape in layout.items() if key.startswith("first_stage_model.")}
    rest = {key: shape for key, shape in layout.items() if key not in vae}
    write_random_checkpoint(tmp_path / "base.safetensors", rest, metadata=layout.metadata)
    write_random_checkpoint(tmp_path / "vae.safetensors", vae, metadata=layout.metadata)
    base = _open(tmp_path / "base.safetensors", vae=str(tmp_path / "vae.safetensors"))
    assert base.load_vae(torch.float32).config.latent_channels == 4
    with pytest.raises(FileFormatError, match="is not a VAE"):
        _open(tmp_path / "base.safetensors", vae=str(tmp_path / "base.safetensors"))
