"""What is no trainable base is refused in one sentence that names the file and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_lab.config import BaseConfig
from adapter_lab.errors import AdapterLabError, ConfigError, FileFormatError
from adapter_lab.training.bases import open_base
from tests.support.checkpoints import tiny_layout, write_diffusers_folder, write_random_checkpoint

UNET = "model.diffusion_model."
Shapes = dict[str, "tuple[int, ...]"]


def _only(prefix: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {key: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _without(prefix: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {key: shape for key, shape in shapes.items() if not key.startswith(prefix)}


def _with(key: str, *shape: int) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {**shapes, key: shape}


def _stripped(prefix: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {key.removeprefix(prefix): s for key, s in shapes.items() if key.startswith(prefix)}


ALTERED: list[tuple[str, str, Callable[[Shapes], Shapes], str]] = [
    (
        "inpainting",
        "sd15",
        _with(f"{UNET}input_blocks.0.0.weight", 32, 9, 3, 3),
        "inpainting model .* ordinary checkpoint",
    ),
    ("pix2pix", "sd15", _with(f"{UNET}input_blocks.0.0.weight", 32, 8, 3, 3), "8 input channels"),
    ("edm", "sdxl", _with("edm_mean", 4), "EDM model .* choose an epsilon or v-prediction"),
    ("cosxl", "sdxl", _with("edm_vpred.sigma_max"), "EDM model"),
    ("unclip", "sd2", _with(f"{UNET}label_emb.0.0.weight", 128, 64), "unCLIP model"),
    ("refiner", "sdxl", _with("conditioner.embedders.0.model.ln_final.weight", 64), "refiner"),
    ("no-text", "sd15", _without("cond_stage_model."), "no text encoder .* complete checkpoint"),
    ("no-te2", "sdxl", _without("conditioner.embedders.1."), "no text encoder \\(te2\\)"),
    ("no-vae", "sd15", _without("first_stage_model."), "has no VAE; give a VAE file in base.vae"),
    ("half-unet", "sd15", _without(f"{UNET}input_blocks.1."), "pruned or altered model that Adapter Lab cannot train"),
    ("vae", "sd15", _stripped("first_stage_model."), "is a VAE; it goes into base.vae"),
    ("flux", "sd15", lambda shapes: {"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "Flux .* supports SD1.5"),
    ("sd3", "sd15", lambda shapes: {f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": (9, 3)}, "Stable Diffusion 3"),
    ("lora", "sd15", lambda shapes: {"lora_unet_out_2.lora_down.weight": (4, 4)}, "adapter .* choose the checkpoint"),
    ("peft", "sd15", lambda shapes: {"unet.conv_in.lora_A.weight": (4, 4)}, "adapter"),
    ("embedding", "sd15", lambda shapes: {"emb_params": (4, 768)}, "textual inversion"),
    ("diffusers-unet", "sd15", lambda shapes: {"down_blocks.0.resnets.0.conv1.weight": (4, 4)}, "model_index.json"),
    ("nothing", "sd15", lambda shapes: {"weight": (4, 4)}, "no checkpoint of SD1.5, SD2.x, SDXL or Anima"),
]


@pytest.mark.parametrize("name, family, alter, sentence", ALTERED, ids=[row[0] for row in ALTERED])
def test_altered_checkpoint(
    tmp_path: Path, name: str, family: str, alter: Callable[[Shapes], Shapes], sentence: str
) -> None:
    layout = tiny_layout(family)
    path = tmp_path / f"{name}.safetensors"
    write_random_checkpoint(path, alter(dict(layout)), metadata=layout.metadata)
    with pytest.raises(FileFormatError, match=sentence) as caught:
        open_base(BaseConfig(checkpoint=str(path))).load_unet(torch.float32)
    _is_one_sentence(caught.value, path)


def _is_one_sentence(error: AdapterLabError, path: Path) -> None:
    text = str(error)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")


CONTENTS: list[tuple[str, bytes, str]] = [
    ("empty.safetensors", b"", "empty"),
    ("short.safetensors", b"\x10", "cut short|not a .safetensors"),
    ("text.safetensors", b"hello, this is not a checkpoint at all" * 10, "not a .safetensors file"),
    ("page.safetensors", b"<!DOCTYPE html><html>Sign in</html>" * 10, "web page"),
    ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n", "git lfs pull"),
    ("empty.ckpt", b"", "empty"),
    ("text.ckpt", b"hello, this is not a checkpoint at all" * 10, "not a checkpoint"),
    ("cut.ckpt", b"PK\x03\x04" + b"\0" * 100, "cut short"),
]


@pytest.mark.parametrize("name, content, sentence", CONTENTS, ids=[row[0] for row in CONTENTS])
def test_files_of_other_kinds(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=sentence) as caught:
        open_base(BaseConfig(checkpoint=str(path)))
    _is_one_sentence(caught.value, path)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_truncated_checkpoint(tmp_path: Path, ending: str) -> None:
    whole = write_random_checkpoint(tmp_path / "whole.safetensors", tiny_layout("sd15"))
    if ending == ".ckpt":
        torch.save(load_file(whole), tmp_path / "whole.ckpt")
    content = (tmp_path / f"whole{ending}").read_bytes()
    path = tmp_path / f"cut{ending}"
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(FileFormatError, match=r"cut short.*again") as caught:
        open_base(BaseConfig(checkpoint=str(path)))
    _is_one_sentence(caught.value, path)


def test_checkpoint_with_a_tensor_of_another_shape(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sd15"))
    state = load_file(path)
    key = f"{UNET}output_blocks.5.0.in_layers.2.weight"
    state[key] = state[key][:, 1:].contiguous()
    save_file(state, path, tiny_layout("sd15").metadata)
    with pytest.raises(FileFormatError, match=f"{key} has shape .* needs"):
        open_base(BaseConfig(checkpoint=str(path))).load_unet(torch.float32)


def test_missing_file_and_unset_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"There is no file .*gone.safetensors; check the path"):
        open_base(BaseConfig(checkpoint=str(tmp_path / "gone.safetensors")))
    with pytest.raises(ConfigError, match=r"base\.checkpoint is empty"):
        open_base(BaseConfig())


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"family": "sdxl"}, r"base\.family is sdxl, but .* is SD1\.5; set base\.family to auto"),
        ({"zero_terminal_snr": "yes"}, "Zero terminal SNR cannot be trained with epsilon"),
        ({"clip_skip": 9}, "only 3 layers"),
    ],
)
def test_settings_the_file_contradicts(tmp_path: Path, settings: dict[str, str], sentence: str) -> None:
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sd15"))
    with pytest.raises(ConfigError, match=sentence):
        open_base(BaseConfig(checkpoint=str(path), **settings))


def test_clip_skip_1_is_refused_for_sd2(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sd2"))
    with pytest.raises(ConfigError, match=r"base\.clip_skip 1 .* use 0 or 2"):
        open_base(BaseConfig(checkpoint=str(path), clip_skip=1))


def test_folders_that_are_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(FileFormatError, match="not a diffusers one"):
        open_base(BaseConfig(checkpoint=str(tmp_path / "plain")))
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(FileFormatError, match="FluxPipeline without a UNet"):
        open_base(BaseConfig(checkpoint=str(tmp_path / "flux")))


def test_folder_parts_that_are_missing_or_foreign(tmp_path: Path) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sdxl")
    (folder / "text_encoder").rename(tmp_path / "away")
    with pytest.raises(FileFormatError, match="refiner has only text_encoder_2"):
        open_base(BaseConfig(checkpoint=str(folder)))
    folder = write_diffusers_folder(tmp_path / "b", "sd15")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), "time_embedding.cond_proj.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(FileFormatError, match=r"weights that no SD1.5 model has .*cond_proj"):
        open_base(BaseConfig(checkpoint=str(folder)))
    weights.unlink()
    with pytest.raises(FileFormatError, match="holds no weights"):
        open_base(BaseConfig(checkpoint=str(folder)))
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"config\.json is not valid JSON"):
        open_base(BaseConfig(checkpoint=str(folder)))
