"""Smaller models distilled from SDXL (SSD-1B, Vega, KOALA), and files that are like none of them."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.layouts import family_of
from adapter_lab.cli import main
from adapter_lab.config import BaseConfig, TrainConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import BASES, DISTILLED, FAMILIES, StableDiffusion
from adapter_lab.training.bases import open_base, save_single_file
from adapter_lab.training.bases.layout import layout
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.training.loop import train
from adapter_lab.training.run import Run
from adapter_lab.validation import clip_skip_advice, validate
from tests.support.checkpoints import byte_vocabulary, tiny_configs, tiny_metadata, tiny_modules
from tests.support.training import events_of, tiny_config

# The structure of these models, at a tiny width and with fewer layers.
OPTIONS: dict[str, dict[str, Any]] = {
    "SSD-1B": {
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 3], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "Segmind Vega": {"transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"},
    "KOALA": {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 3], "mid_block_type": None},
}
# Transformers by block of the real files that are left of SDXL's.
CUTS = {
    "ssd-1b": "in4 2, in5 2, in7 4, in8 4, out0 4, out1 4, out2 10, out3 2, out4 1, out5 1",
    "vega": "in4 1, in5 1, in7 2, in8 2, out0 2, out1 2, out2 2, out3 1, out4 1, out5 1",
}
# Millions of a UNet's parameters; KOALA's are published as 1.16 and 0.78 billion.
PARAMETERS = {"ssd-1b": 1331, "vega": 745, "koala-1b": 1161, "koala-700m": 783}


def unet_of(name: str) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**{**tiny_configs("sdxl")["unet"], **OPTIONS[name]}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter_name, parameter in unet.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and parameter_name.endswith("weight") else 0.0
        scale = 0.1 if parameter.ndim == 1 else 0.5 / parameter[0].numel() ** 0.5
        parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return unet


@pytest.fixture(scope="module", params=OPTIONS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    _, vae, encoders = tiny_modules("sdxl")
    unet = unet_of(request.param)
    path = tmp_path_factory.mktemp("base") / "small.safetensors"
    tokenizer = {"adapter_lab.tokenizer": json.dumps({"vocab": byte_vocabulary(), "merges": []})}
    save_single_file(path, unet, vae, encoders, tokenizer)
    return request.param, unet, path


def answer(unet: Any, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    hidden = torch.randn(1, 77, width, generator=generator)
    added = {"text_embeds": torch.randn(1, 64, generator=generator), "time_ids": torch.full((1, 6), 64.0)}
    with torch.no_grad():
        return unet(latents, torch.tensor([500]), hidden, added_cond_kwargs=added).sample


def test_the_file_gives_the_model_it_was_made_of(saved: tuple[str, Any, Path]) -> None:
    name, unet, path = saved
    base = open_base(BaseConfig(checkpoint=str(path)))
    base.check()
    assert torch.equal(answer(base.load_unet(torch.float32)), answer(unet))
    for key, value in OPTIONS[name].items():
        assert base.components["unet"].config.get(key, 2) == value, key


def test_it_trains_and_its_adapter_applied_to_the_file_is_what_was_trained(
    saved: tuple[str, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, path = saved
    runs: list[Run] = []
    real = Run._set_up
    monkeypatch.setattr(Run, "_set_up", lambda self, prepared: (real(self, prepared), runs.append(self))[0])
    config = tiny_config(tmp_path, "sdxl", network__algo="lokr", network__conv_dim=4, save__dtype="fp32")
    config.base.checkpoint = str(path)
    config.dataset.resolution = 64
    config.network.feed_forward = config.network.projections = True
    assert estimate(config, memory=name == "SSD-1B").modules > 0
    result = train(config, tmp_path / "run")
    assert result.steps == 3
    report = apply_adapters(path, [(result.adapters[-1], 1.0)], tmp_path / "applied.safetensors")
    assert not report.adapters[0].not_applied and not report.adapters[0].unknown
    applied = open_base(BaseConfig(checkpoint=str(tmp_path / "applied.safetensors"))).load_unet(torch.float32)
    trained = runs[0].prepared
    trained.train(False)
    assert torch.allclose(answer(applied), answer(trained.denoiser.unet), atol=1e-5)
    assert not torch.allclose(answer(applied), answer(saved[1]), atol=1e-3)


@pytest.mark.parametrize(("key", "left"), CUTS.items())
def test_the_rows_of_those_cut_out_of_sdxl_have_the_real_layouts(key: str, left: str) -> None:
    assert layout(key) == cut(left)


@pytest.mark.parametrize("row", DISTILLED.values(), ids=lambda row: row.key)
def test_a_row_is_known_by_its_tensors_and_has_its_familys_names_and_metadata(
    row: StableDiffusion, tmp_path: Path
) -> None:
    shapes = layout(row.key)
    parameters = sum(prod(shape) for name, shape in shapes.items() if name.startswith("model.diffusion_model."))
    assert round(parameters / 1e6) == PARAMETERS[row.key]
    assert row.key not in FAMILIES and family_of(shapes) == row.of == "sdxl"
    path = empty_checkpoint(tmp_path / "base.safetensors", shapes)
    base = open_base(BaseConfig(checkpoint=str(path)))
    base.check()
    assert base.findings[0] == f"base.safetensors is an SDXL model ({row.title}, a smaller one with fewer layers)."
    assert (base.family, base.row, base.row.title) == ("sdxl", row, row.title)
    assert base.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"
    assert base.metadata()["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


@pytest.mark.parametrize("row", DISTILLED.values(), ids=lambda row: row.key)
def test_an_estimate_without_a_file_has_the_sizes_of_one_with_it(
    row: StableDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = empty_checkpoint(tmp_path / "base.safetensors", layout(row.key))
    found = []
    for base in (row.key, str(path)):
        assert main(["estimate", "--base", base, "--algo", "lokr", "--train-te", "--no-memory", "--json"]) == 0
        estimated = json.loads(capsys.readouterr().out)
        tensors = estimated["file_bytes"] - estimated["metadata_bytes"]
        found.append((estimated["base"], estimated["modules"], estimated["trainable_parameters"], tensors))
    assert found[0] == found[1] and found[0][0] == row.title


@pytest.mark.parametrize("row", DISTILLED.values(), ids=lambda row: row.key)
def test_a_file_is_of_its_own_row_and_of_the_family_it_was_distilled_from(row: StableDiffusion, tmp_path: Path) -> None:
    path = str(empty_checkpoint(tmp_path / "base.safetensors", layout(row.key)))
    for key in BASES:
        config = BaseConfig(checkpoint=path, family=key)
        if key in (row.key, "sdxl"):
            assert open_base(config).row == row
        else:
            with pytest.raises(ConfigError, match=f"base.family is {key}, but .* is {row.title}; set base.family to"):
                open_base(config)


def test_what_is_said_of_settings_on_a_family_is_said_of_what_was_distilled_from_it() -> None:
    for row in DISTILLED.values():
        assert clip_skip_advice(row.key, 1) == clip_skip_advice(row.of, 1) != ""
        config = TrainConfig()
        config.base.family, config.base.text_encoder = row.key, "text.safetensors"
        with pytest.raises(ConfigError, match=rf"base.text_encoder has no effect on {row.title}"):
            validate(config, complete=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda key: ".middle_block.1.transformer_blocks.9." in key, "middle_block|mid_block"),
        (lambda key: ".input_blocks.4.0.in_layers.2." in key, "down_blocks.1.resnets.0.conv1"),
        (lambda key: ".middle_block.0." in key, "mid_block"),
        (lambda key: key.endswith("resblocks.31.attn.in_proj_weight"), "31"),
        (lambda key: key == "first_stage_model.decoder.conv_out.bias", "decoder.conv_out.bias"),
    ],
)
def test_another_structure_is_refused_by_estimate_and_train_before_anything_is_encoded(
    change: Any, said: str, tmp_path: Path
) -> None:
    shapes = {key: shape for key, shape in layout("sdxl").items() if not change(key)}
    config = tiny_config(tmp_path, "sdxl")
    config.base.checkpoint = str(empty_checkpoint(tmp_path / "base.safetensors", shapes))
    sentences = []
    with pytest.raises(FileFormatError, match=said) as refused:
        estimate(config, memory=False)
    sentences.append(str(refused.value))
    with pytest.raises(FileFormatError, match=said) as refused:
        train(config, tmp_path / "run")
    sentences.append(str(refused.value))
    assert sentences[0] == sentences[1] and "base.safetensors" in sentences[0] and "; " in sentences[0]
    assert not events_of(tmp_path / "run", "dataset")


def test_a_base_without_attention_in_the_middle_trains(tmp_path: Path) -> None:
    config: TrainConfig = tiny_config(tmp_path, "sdxl", run__steps=1)
    tensors = load_file(config.base.checkpoint)
    kept = {key: value for key, value in tensors.items() if not re.search(r"middle_block\.[12]\.", key)}
    save_file(kept, tmp_path / "base.safetensors", tiny_metadata("sdxl"))
    config.base.checkpoint = str(tmp_path / "base.safetensors")
    assert train(config, tmp_path / "run").steps == 1


def cut(left: str) -> dict[str, tuple[int, ...]]:
    depths = {block: int(depth) for block, depth in (entry.split() for entry in left.split(", "))}
    kept = {}
    for key, shape in layout("sdxl").items():
        found = re.search(r"diffusion_model\.(in|out)put_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.", key)
        if found and int(found[3]) >= depths[found[1] + found[2]]:
            continue
        if not re.search(r"diffusion_model\.middle_block\.[12]\.", key):
            kept[key] = shape
    return kept


def empty_checkpoint(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A checkpoint of these shapes in fp16, all zeros, as a sparse file that takes no room."""
    header: dict[str, Any] = {}
    offset = 0
    for key, shape in shapes.items():
        end = offset + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + offset)
    return path
