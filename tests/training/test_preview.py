"""Sample images against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from adapter_lab.config import BaseConfig, PreviewConfig, TrainConfig
from adapter_lab.runs.requests import STOP
from adapter_lab.sample_prompts import read_prompt
from adapter_lab.training.bases import Base, open_base
from adapter_lab.training.bases.stable_diffusion import StableDiffusionBase
from adapter_lab.training.loop import train
from adapter_lab.training.output.preview import PromptText, decode, encode_prompts, sample
from adapter_lab.validation import problems
from tests.support.checkpoints import tiny_layout, write_random_checkpoint
from tests.support.training import events_of, tiny_config

PROMPTS = ["a photo of a cat", "a very long prompt, " * 8]


def _base(tmp_path: Path, family: str, keys: tuple[str, ...] = ()) -> Base:
    layout = tiny_layout(family)
    shapes = {**layout, **dict.fromkeys(keys, (0,))}
    path = write_random_checkpoint(tmp_path / "a.safetensors", shapes, torch.float32, metadata=layout.metadata)
    return open_base(BaseConfig(checkpoint=str(path)))


def _pipeline_picture(base: Base, unet: Any, preview: PreviewConfig, index: int, text: PromptText) -> np.ndarray:
    """The same image from diffusers' pipeline, given our text as embeddings."""
    vae = base.load_vae(torch.float32)
    scheduler = base.objective().sampler(preview.steps, preview.shift)
    common = {
        "num_inference_steps": preview.steps,
        "guidance_scale": preview.guidance,
        "width": preview.width,
        "height": preview.height,
        "generator": torch.Generator().manual_seed(preview.seed + index),
        "output_type": "np",
        "prompt_embeds": text.positive.hidden,
        "negative_prompt_embeds": text.negative.hidden,
    }
    if base.family == "sdxl":
        pipeline = StableDiffusionXLPipeline(vae, None, None, None, None, unet, scheduler, add_watermarker=False)
        common |= {
            "pooled_prompt_embeds": text.positive.pooled,
            "negative_pooled_prompt_embeds": text.negative.pooled,
        }
    else:
        pipeline = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**common).images[0]


@pytest.mark.parametrize(
    "family, keys",
    [("sd15", ()), ("sd2", ("v_pred",)), ("sdxl", ()), ("sdxl", ("v_pred", "ztsnr"))],
    ids=["sd15", "sd2-v", "sdxl", "sdxl-v-ztsnr"],
)
def test_pictures_equal_diffusers_pipelines(tmp_path: Path, family: str, keys: tuple[str, ...]) -> None:
    base = _base(tmp_path, family, keys)
    preview = PreviewConfig(prompts=PROMPTS, negative="bad", seed=5, steps=3, guidance=4.0, width=64, height=48)
    texts = encode_prompts(base.load_text_encoders(torch.float32), preview)
    unet = base.load_unet(torch.float32)
    pictures = sample(base, unet, preview, texts)
    for index, picture in enumerate(pictures):
        expected = _pipeline_picture(base, unet, preview, index, texts[index])
        assert picture.size == (64, 48)
        assert expected.std() > 0.01  # not one colour
        np.testing.assert_allclose(np.asarray(picture) / 255, expected, atol=0.6 / 255)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_each_prompt_has_its_seed_whatever_stands_before_it(tmp_path: Path, family: str) -> None:
    base = _base(tmp_path, family)
    encoders, unet = base.load_text_encoders(torch.float32), base.load_unet(torch.float32)

    def pictures(prompts: list[str], seed: int) -> list[bytes]:
        preview = PreviewConfig(prompts=prompts, seed=seed, steps=2)
        return [picture.tobytes() for picture in sample(base, unet, preview, encode_prompts(encoders, preview))]

    first, second = pictures(["cat", "dog"], 3)
    assert pictures(["dog"], 4) == [second]
    assert pictures(["cat"], 3) == [first]
    assert pictures(["cat"], 4) != [first]


def test_sampling_leaves_random_state_and_training_mode_alone(tmp_path: Path) -> None:
    base = _base(tmp_path, "sd15")
    preview = PreviewConfig(prompts=["cat"], steps=2)
    texts = encode_prompts(base.load_text_encoders(torch.float32), preview)
    unet = base.load_unet(torch.float32).train()
    unet.mid_block.eval()
    modes = [module.training for module in unet.modules()]
    state = torch.get_rng_state()
    sample(base, unet, preview, texts, vae=base.load_vae(torch.float32))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in unet.modules()] == modes


@pytest.mark.parametrize("negative, zero", [("", True), ("  ", True), ("bad", False)])
def test_empty_negative_prompt_of_sdxl_is_zeros(tmp_path: Path, negative: str, zero: bool) -> None:
    base = _base(tmp_path, "sdxl")
    preview = PreviewConfig(prompts=["cat"], negative=negative)
    text = encode_prompts(base.load_text_encoders(torch.float32), preview)[0]
    assert (text.negative.hidden.abs().sum() == 0) == zero
    assert (text.negative.pooled.abs().sum() == 0) == zero


def test_long_prompt_and_short_negative_get_equally_many_chunks(tmp_path: Path) -> None:
    base = _base(tmp_path, "sd15")
    preview = PreviewConfig(prompts=["cat", "abcde " * 20, "abcde " * 200])
    texts = encode_prompts(base.load_text_encoders(torch.float32), preview)
    assert [text.positive.hidden.shape[1] for text in texts] == [77, 154, 231]
    assert all(text.positive.hidden.shape == text.negative.hidden.shape for text in texts)


@pytest.mark.parametrize(
    "settings, resolution, size",
    [({}, 0, (64, 64)), ({}, 96, (96, 96)), ({"width": 80}, 64, (80, 64)), ({"width": 61, "height": 100}, 0, (56, 96))],
)
def test_size_of_pictures(tmp_path: Path, settings: dict[str, int], resolution: int, size: tuple[int, int]) -> None:
    base = _base(tmp_path, "sd15")
    preview = PreviewConfig(prompts=["cat"], steps=1, **settings)
    texts = encode_prompts(base.load_text_encoders(torch.float32), preview)
    (picture,) = sample(base, base.load_unet(torch.float32), preview, texts, resolution=resolution)
    assert picture.size == size


@pytest.mark.parametrize("zero", [False, True])
def test_first_timestep_is_the_noisiest_only_for_zero_terminal_snr(tmp_path: Path, zero: bool) -> None:
    base = _base(tmp_path, "sdxl", ("v_pred", "ztsnr") if zero else ())
    timesteps = base.objective().sampler(20, 1.0).timesteps.tolist()
    assert timesteps[0] == (999 if zero else 951)
    assert timesteps[-1] == (49 if zero else 1)


def test_half_precision_follows_the_same_path(tmp_path: Path) -> None:
    base = _base(tmp_path, "sdxl")
    preview = PreviewConfig(prompts=["cat"], steps=3)
    pictures = []
    for dtype in (torch.float32, torch.bfloat16):
        texts = encode_prompts(base.load_text_encoders(dtype), preview)
        (picture,) = sample(base, base.load_unet(dtype), preview, texts)
        pictures.append(np.asarray(picture).astype(float))
    assert abs(pictures[0] - pictures[1]).mean() < 4


def test_tiled_decoding_is_close_to_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_lab.training.output import preview as module

    base = _base(tmp_path, "sd15")
    latents = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.2
    whole = decode(base.load_vae(torch.float32), latents)
    monkeypatch.setattr(module, "_is_short", lambda device, needed: True)
    monkeypatch.setattr(module, "TILE", 128)
    vae = base.load_vae(torch.float32)
    tiled = decode(vae, latents)
    assert tiled.size == whole.size == (192, 192)
    assert not vae.use_tiling  # a VAE that stays in memory encodes the next images
    difference = np.abs(np.asarray(whole).astype(float) - np.asarray(tiled))
    assert 0 < difference.mean() < 12


def test_a_stop_is_answered_within_a_sampling_step(tmp_path: Path) -> None:
    prompts = ["a cat", "a dog"]
    config = tiny_config(tmp_path, preview__prompts=prompts, preview__steps=200, preview__baseline=False)
    stops: list[str] = []
    steps = []

    def denoise(base: Any, *arguments: Any) -> Any:
        steps.append(base)
        if len(steps) == 3 + 2:  # three of training, the second of the first image
            (tmp_path / "run" / STOP).touch()
            stops.append("asked")
        return before(base, *arguments)

    before = StableDiffusionBase.denoise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StableDiffusionBase, "denoise", denoise)
        train(config, tmp_path / "run")
    assert stops and len(steps) == 5
    notes = [event["message"] for event in events_of(tmp_path / "run", "note")]
    assert any("left unfinished: stopped by the stop file" in note for note in notes)


def test_sides_of_sample_images_have_a_bound() -> None:
    config = TrainConfig()
    config.preview.prompts = ["a cat"]
    for name in ("width", "height"):
        setattr(config.preview, name, 4097)
    found = {problem.setting for problem in problems(config)}
    assert {"preview.width", "preview.height"} <= found
    assert read_prompt("a cat --w 4096 --h 4097").own == {"width": 4096}
