"""Checkpoints in one file: modules -> file -> modules without a change, and what a file can say of itself."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_lab.config import BaseConfig
from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases import Base, open_base, save_single_file
from tests.support.checkpoints import (
    byte_vocabulary,
    tiny_layout,
    tiny_metadata,
    tiny_modules,
    write_random_checkpoint,
)

FAMILIES = ["sd15", "sd2", "sdxl"]
TOKENIZER = {"adapter_lab.tokenizer": json.dumps({"vocab": byte_vocabulary(), "merges": []})}


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A tiny pipeline of diffusers and transformers modules, and the base opened from the file it was saved to."""
    family = request.param
    path = tmp_path_factory.mktemp(family) / f"{family}.safetensors"
    unet, vae, encoders = tiny_modules(family)
    save_single_file(path, unet, vae, encoders, TOKENIZER)
    return unet, vae, encoders, open_base(BaseConfig(checkpoint=str(path)))


def equal_states(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_weight_comes_back_bit_for_bit(saved) -> None:
    unet, vae, encoders, base = saved
    assert equal_states(base.load_unet(torch.float32), unet)
    assert equal_states(base.load_vae(torch.float32), vae)
    loaded = base.load_text_encoders(torch.float32).parts
    assert loaded.keys() == encoders.keys()
    for part, encoder in encoders.items():
        assert equal_states(loaded[part], encoder)


def test_outputs_equal_the_original_modules(saved) -> None:
    """Heads, groups, activations and norms are right too, which weights alone do not show."""
    unet, vae, encoders, base = saved
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    hidden = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    added = base.added_conditions([((64, 48), (0, 8), (64, 64))] * 2, torch.randn(2, 64, generator=generator))
    timesteps = torch.tensor([3, 800])
    with torch.no_grad():
        expected = unet(latents, timesteps, hidden, added_cond_kwargs=added).sample
        assert torch.equal(
            base.load_unet(torch.float32)(latents, timesteps, hidden, added_cond_kwargs=added).sample, expected
        )
        pixels = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
        assert torch.equal(
            base.load_vae(torch.float32).encode(pixels).latent_dist.parameters,
            vae.encode(pixels).latent_dist.parameters,
        )
        ids = torch.randint(0, 514, (2, 77), generator=generator)
        for part, encoder in base.load_text_encoders(torch.float32).parts.items():
            assert torch.equal(encoder(ids)[0], encoders[part](ids)[0])


def test_modules_are_frozen_and_in_eval_mode(saved) -> None:
    base = saved[3]
    for module in (base.load_unet(torch.float32), base.load_vae(torch.float32)):
        assert not module.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_random_checkpoint_survives_loading_and_saving(tmp_path: Path, family: str) -> None:
    """The other round trip: file -> modules -> file, so no tensor of the file is lost on the way in."""
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout(family), torch.float32)
    base = open_base(BaseConfig(checkpoint=str(path)))
    encoders = base.load_text_encoders(torch.float32).parts
    again = tmp_path / "b.safetensors"
    save_single_file(
        again, base.load_unet(torch.float32), base.load_vae(torch.float32), encoders, tiny_metadata(family)
    )
    before, after = load_file(path), load_file(again)
    before.pop("alphas_cumprod", None), after.pop("alphas_cumprod", None)
    assert before.keys() == after.keys()
    different = {key for key in before if not torch.equal(before[key], after[key])}
    # No module holds OpenCLIP's temperature, nor SD2's last text layer, which is never run.
    assert all(key.endswith("logit_scale") or (family == "sd2" and ".resblocks.2." in key) for key in different)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_on_the_way_in(saved, dtype: torch.dtype) -> None:
    unet, base = saved[0], saved[3]
    loaded = base.load_unet(dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.conv_in.weight, unet.conv_in.weight.to(dtype))


def test_saved_file_states_only_what_shapes_do_not_show(tmp_path: Path, saved) -> None:
    from safetensors import safe_open

    with safe_open(saved[3].path, "pt") as file:
        stated = json.loads(file.metadata()["adapter_lab.architecture"])
    assert "block_out_channels" not in stated["unet"]
    assert stated["unet"]["norm_num_groups"] == stated["vae"]["norm_num_groups"] == 8
    assert stated["text_encoder"]["num_attention_heads"] == 4


def test_released_sizes_need_no_statement() -> None:
    from adapter_lab.training.bases.ldm import ldm_state
    from adapter_lab.training.bases.writing import _overrides
    from tests.support.released import meta_text_encoders, meta_unet, meta_vae

    for family in FAMILIES:
        unet, vae, encoders = meta_unet(family), meta_vae(family), meta_text_encoders(family)
        states = {part: encoder.state_dict() for part, encoder in encoders.items()}
        tensors = ldm_state(family, unet.state_dict(), vae.state_dict(), states)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        stated = _overrides(family, shapes, unet, vae, encoders)
        for section in stated.values():
            section.pop("sample_size", None)  # of diffusers' defaults; ours is the training resolution
        assert not any(stated.values()), stated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old-pickle"])
@pytest.mark.parametrize("nested", [True, False])
def test_ckpt_loads_like_safetensors(tmp_path: Path, dtype: torch.dtype, zipped: bool, nested: bool) -> None:
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sd15"), dtype)
    state = load_file(path)
    # A pickle has no metadata: real widths per head make the tiny model's configuration wrong, so compare weights.
    content = {"state_dict": state, "global_step": 7} if nested else state
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    base = open_base(BaseConfig(checkpoint=str(tmp_path / "a.ckpt")))
    assert base.shapes == open_base(BaseConfig(checkpoint=str(path))).shapes
    weights = base.components["unet"].weights
    assert all(torch.equal(weights.read(key), state[key]) for key in state)


def test_pickle_with_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": {}, "callbacks": Bomb()}, tmp_path / "bad.ckpt")
    with pytest.raises(FileFormatError, match=r"bad\.ckpt holds Python objects .* convert it to \.safetensors"):
        open_base(BaseConfig(checkpoint=str(tmp_path / "bad.ckpt")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_fetched(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout(family))
    base = open_base(BaseConfig(checkpoint=str(path)))
    base.load_unet(torch.float32), base.load_vae(torch.float32)
    base.load_text_encoders(torch.float32).encode(["a photo of a cat"])


def _base(path: Path) -> Base:
    return open_base(BaseConfig(checkpoint=str(path)))


def test_keys_follow_content_not_name_or_time(tmp_path: Path) -> None:
    layout = tiny_layout("sdxl")
    first = _base(write_random_checkpoint(tmp_path / "a.safetensors", layout, seed=1))
    copy = _base(write_random_checkpoint(tmp_path / "b.safetensors", layout, seed=1))
    assert (first.content_key, first.vae_key, first.text_key) == (copy.content_key, copy.vae_key, copy.text_key)
    other = _base(write_random_checkpoint(tmp_path / "c.safetensors", layout, seed=2))
    assert len({first.content_key, other.content_key, first.vae_key, other.vae_key}) == 4
    state = load_file(tmp_path / "a.safetensors")
    state["model.diffusion_model.out.2.bias"] += 1  # only the UNet was fine-tuned
    save_file(state, tmp_path / "d.safetensors", layout.metadata)
    tuned = _base(tmp_path / "d.safetensors")
    assert tuned.content_key != first.content_key
    assert (tuned.vae_key, tuned.text_key) == (first.vae_key, first.text_key)
    skipping = open_base(BaseConfig(checkpoint=str(tmp_path / "a.safetensors"), clip_skip=3))
    assert skipping.text_key != first.text_key


def test_vae_of_sdxl_is_not_loaded_in_fp16_where_it_overflows(tmp_path: Path) -> None:
    sdxl = _base(write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sdxl")))
    assert next(sdxl.load_vae(torch.float16).parameters()).dtype == torch.float32  # a CPU
    assert next(sdxl.load_vae(torch.bfloat16).parameters()).dtype == torch.bfloat16
    mended = write_random_checkpoint(
        tmp_path / "c.safetensors",
        tiny_layout("sdxl"),
        metadata={"adapter_lab.architecture": json.dumps({"vae": {"norm_num_groups": 8, "force_upcast": False}})},
    )
    assert next(_base(mended).load_vae(torch.float16).parameters()).dtype == torch.float16
    sd15 = _base(write_random_checkpoint(tmp_path / "b.safetensors", tiny_layout("sd15")))
    assert next(sd15.load_vae(torch.float16).parameters()).dtype == torch.float16


@pytest.mark.parametrize("metadata", ["{", "[]", '{"unet": 3}'])
def test_malformed_architecture_metadata_is_said(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "a.safetensors"
    write_random_checkpoint(path, tiny_layout("sd15"), metadata={"adapter_lab.architecture": metadata})
    with pytest.raises(FileFormatError, match=r"a\.safetensors has malformed adapter_lab\.architecture"):
        _base(path)
