"""Values that are not finite: what gives them is named, and nothing of them is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError, DatasetError, TrainingStopped
from adapter_lab.training import prepare as phases
from adapter_lab.training.dataset import LatentCache, TextCache, scan
from adapter_lab.training.denoiser.step import Denoiser
from adapter_lab.training.loop import train
from tests.support.checkpoints import tiny_metadata
from tests.support.training import events_of, tiny_config

NAN = float("nan")


def damaged(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    """The run's base with one value of the first tensor whose name holds `name` not finite."""
    tensors = load_file(config.base.checkpoint)
    key = next(key for key in tensors if name in key and tensors[key].numel())
    tensors[key].flatten()[0] = NAN
    save_file(tensors, folder / "damaged.safetensors", tiny_metadata("sd15"))
    config.base.checkpoint = str(folder / "damaged.safetensors")
    return config


@pytest.mark.parametrize(
    "part",
    ["diffusion_model.input_blocks.1.0.in_layers.2", "first_stage_model.encoder", "cond_stage_model.transformer"],
)
def test_a_damaged_base_is_named_with_the_weights(part: str, tmp_path: Path) -> None:
    config = damaged(tiny_config(tmp_path, dataset__cache_latents="disk"), tmp_path, part)
    with pytest.raises(AdapterLabError, match=r"damaged\.safetensors: the weights of \S+ hold NaN") as said:
        train(config, tmp_path / "run")
    assert "learning rate" not in str(said.value)


def test_weights_too_large_for_the_format_are_said_to_be(tmp_path: Path) -> None:
    from adapter_lab.training.bases import open_base

    config = tiny_config(tmp_path)
    tensors = load_file(config.base.checkpoint)
    tensors["model.diffusion_model.out.2.weight"].flatten()[0] = 1e9
    save_file(tensors, tmp_path / "large.safetensors", tiny_metadata("sd15"))
    config.base.checkpoint = str(tmp_path / "large.safetensors")
    with pytest.raises(AdapterLabError, match=r"conv_out\.weight do not fit into fp16; set precision\.mixed"):
        open_base(config.base).load_unet(torch.float16)


def test_latents_that_are_not_finite_name_the_picture_and_the_vae_and_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = phases.encode

    def encode(vae: Any, device: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = real(vae, device, pixels)
        return mean * NAN, std

    monkeypatch.setattr(phases, "encode", encode)
    config = tiny_config(tmp_path, dataset__cache_latents="disk")
    with pytest.raises(DatasetError, match=r"The VAE of .*sd15\.safetensors encodes .*/0\.png as values that are not"):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "pictures/.adapter-lab-cache/latents").rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["latents", "text"])
def test_an_entry_that_an_older_version_kept_is_made_again(kind: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    dataset = scan(config.dataset, 64)
    good = torch.zeros(4, 8, 8)
    if kind == "latents":
        cache: Any = LatentCache(tmp_path, "vae")
        entry = dataset.cache_samples()[0]
        cache.put(entry, good, good)
        key, poisoned = cache.key(entry), {"mean": good + NAN, "std": good}
    else:
        cache, entry = TextCache(tmp_path, "te"), "a cat"
        cache.put(entry, good, None)
        key, poisoned = cache.key(entry), {"hidden": good + NAN}
    assert cache.missing([entry]) == [] and cache.get(entry) is not None
    cache.store.put(key, poisoned)
    assert cache.get(entry) is None
    assert cache.missing([entry]) == [entry]
    assert any("made again" in remark for remark in cache.store.take_remarks())


def test_captions_that_are_not_finite_are_named_and_not_kept(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, "te", torch.float16)
    with pytest.raises(DatasetError, match=r"'a cat' as values that are not finite.*precision\.mixed"):
        cache.put("a cat", torch.full((77, 8), 1e6), None)  # too large for fp16
    assert cache.missing(["a cat"]) == ["a cat"]


@pytest.mark.parametrize(("culprit", "cache", "said"), [
    ("base", "off", r"not the learning rate: without the adapter, too, .*sd15\.safetensors answers .*/\d\.png"),
    ("adapter", "memory", "lower learning rate"),
])  # fmt: skip
def test_a_loss_that_is_not_finite_is_blamed_on_what_gave_it(
    culprit: str, cache: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Denoiser.predict

    def predict(self: Denoiser, *arguments: Any) -> torch.Tensor:
        answer = real(self, *arguments)
        # What a base gives in a format it overflows in is there without the adapter and its gradients too.
        return answer * NAN if culprit == "base" or torch.is_grad_enabled() else answer

    monkeypatch.setattr(Denoiser, "predict", predict)
    with pytest.raises(TrainingStopped, match=said) as stopped:
        train(tiny_config(tmp_path, dataset__cache_latents=cache), tmp_path / "run")
    assert ("not the learning rate" in str(stopped.value)) == (culprit == "base")
    assert len(events_of(tmp_path / "run", "failed")) == 1


def test_a_vae_that_encodes_in_each_step_is_blamed_with_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = phases.encode
    monkeypatch.setattr(phases, "encode", lambda *arguments: tuple(value * NAN for value in real(*arguments)))
    with pytest.raises(TrainingStopped, match=r"The VAE of .*sd15\.safetensors encodes .*/\d\.png as values"):
        train(tiny_config(tmp_path, dataset__cache_latents="off"), tmp_path / "run")
