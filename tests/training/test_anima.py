"""Anima trained: every type's file gives the trained forward, parts have their switches and rates, images are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adapter_lab import algorithms
from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.convert import convert
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.names import NAMINGS
from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.config import BaseConfig, TrainConfig, trained_network
from adapter_lab.errors import ConfigError
from adapter_lab.training.bases import open_base
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.training.loop import resume, train
from adapter_lab.training.network.network import build_network
from adapter_lab.training.objective.noise import draw_share
from tests.support.training import events_of, losses_of, tiny_base, tiny_config

CAPTIONS = ["a red hat", "", "tok, a person"]


def anima(folder: Path, **changes: Any) -> TrainConfig:
    config = tiny_config(folder, "anima", **changes)
    config.network.feed_forward = True
    return config


def answer(checkpoint: Path, network: TrainConfig | None = None, seed: int = 0) -> Tensor:
    """What the base in a file makes of one noise, with the network that begins as `network` says."""
    base = open_base(BaseConfig(checkpoint=str(checkpoint), **PARTS))
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn((3, 16, 8, 8), generator=generator, dtype=torch.float64)
    unet, encoders = base.load_unet(torch.float64), base.load_text_encoders(torch.float64)
    if network is not None:
        parts = {"unet": unet, **encoders.parts}
        built = build_network(trained_network(network), targets(base.shapes), parts, 0).eval()
        built.attach()
    with torch.no_grad():
        text = encoders.encode(CAPTIONS)
        return base.denoise(unet, noisy, torch.tensor([20.0, 500.0, 990.0]), text, [])


PARTS: dict[str, str] = {}


@pytest.fixture(autouse=True, scope="module")
def _parts() -> None:
    folder = tiny_base("anima").parent
    PARTS.update(
        text_encoder=str(folder / "qwen_3_06b_base.safetensors"), vae=str(folder / "qwen_image_vae.safetensors")
    )


def used(algo: str) -> set[str]:
    """Of dim and alpha, what an algorithm uses."""
    return {name for name in ("dim", "alpha") if algo in (algorithms.users(name) or ())}


@pytest.mark.parametrize("kind", ADAPTER_TYPES)
def test_every_types_file_gives_the_trained_forward(kind: str, tmp_path: Path) -> None:
    config = anima(tmp_path, network__train_conditioner=True, network__modulation=True)
    for name, value in ADAPTER_TYPES[kind].network.items():
        setattr(config.network, name, value)
    default = TrainConfig().network
    if "dim" in used(config.network.algo):
        config.network.dim = 18 if kind == "boft" else 4  # blocks that the tiny layers can be cut into
    else:
        config.network.dim = default.dim
    config.network.alpha = 4.0 if "alpha" in used(config.network.algo) else default.alpha
    config.save.dtype = "fp32"
    result = train(config, tmp_path / "run")
    path = Path(result.adapters[-1])
    metadata = AdapterFile.open(path).metadata
    assert metadata["ss_base_model_version"] == "anima" and metadata["modelspec.architecture"].startswith("anima")
    names = set(AdapterFile.open(path).modules)
    assert any("llm_adapter" in name for name in names) and any("adaln_modulation" in name for name in names)
    assert all(name.startswith("lora_unet_") for name in names)
    config.network.start_from = str(path)
    trained, plain = answer(tiny_base("anima"), config), answer(tiny_base("anima"))
    report = apply_adapters(tiny_base("anima"), [(path, 1.0)], tmp_path / "out.safetensors", dtype="fp32")
    assert len(report.adapters[0].applied) == len(names)
    applied = answer(tmp_path / "out.safetensors")
    change = (trained - plain).norm()
    assert change > 1e-4 * plain.norm()
    # fp32 is what layers and the written checkpoint are kept in.
    assert (applied - trained).norm() < 1e-3 * change + 1e-6 * plain.norm()


@pytest.mark.parametrize("names", ["comfy", "diffusers", "kohya"])
def test_other_names_of_a_file_are_the_same_change(names: str, tmp_path: Path) -> None:
    config = anima(tmp_path, network__train_conditioner=True, network__train_te=True, save__dtype="fp32")
    path = Path(train(config, tmp_path / "run").adapters[-1])
    convert(path, tmp_path / "other.safetensors", "same", names=names)
    other = set(AdapterFile.open(tmp_path / "other.safetensors").modules)
    table = targets(open_base(config.base).shapes)
    assert other == {NAMINGS[names].write(table[name], "anima") for name in AdapterFile.open(path).modules}
    outs = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file, out in zip((path, tmp_path / "other.safetensors"), outs):
        apply_adapters(tiny_base("anima"), [(file, 0.7)], out)
    torch.testing.assert_close(answer(outs[0]), answer(outs[1]), rtol=1e-5, atol=1e-6)


def test_by_default_attention_and_feed_forward_of_the_transformer_are_trained(tmp_path: Path) -> None:
    path = train(anima(tmp_path), tmp_path / "run").adapters[-1]
    names = set(AdapterFile.open(Path(path)).modules)
    assert len(names) == 2 * 10 and not any("llm_adapter" in name or "adaln" in name for name in names)


def test_the_conditioner_has_a_rate_of_its_own(tmp_path: Path) -> None:
    still = anima(tmp_path, network__train_conditioner=True, optimizer__conditioner_lr=0.0)
    names = AdapterFile.open(Path(train(still, tmp_path / "run").adapters[-1])).modules
    assert not any("llm_adapter" in name for name in names)
    moved = anima(tmp_path / "b", network__train_conditioner=True, optimizer__conditioner_lr=1e-6, save__dtype="fp32")
    file = AdapterFile.open(Path(train(moved, tmp_path / "b/run").adapters[-1]))
    tensors = load_file(file.path)
    ups = {name: tensors[f"{name}.lora_up.weight"].abs().max().item() for name in file.modules}
    slow = [value for name, value in ups.items() if "llm_adapter" in name]
    fast = [value for name, value in ups.items() if "llm_adapter" not in name]
    assert slow and max(slow) < 1e-4 < min(fast)


def test_training_the_text_encoder_is_warned_of(tmp_path: Path) -> None:
    config = anima(tmp_path, network__train_te=True)
    path = train(config, tmp_path / "run").adapters[-1]
    assert any(name.startswith("lora_te_layers_0_") for name in AdapterFile.open(Path(path)).modules)
    texts = [event["message"] for event in events_of(tmp_path / "run", "warning")]
    assert any("Anima's text encoder" in text and "web UIs" in text for text in texts)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = anima(tmp_path, run__steps=6)
    train(whole, tmp_path / "whole")
    part = anima(tmp_path / "b", run__steps=3)
    train(part, tmp_path / "part")
    resume(tmp_path / "part", {"run.steps": 6})
    assert losses_of(tmp_path / "part")[-3:] == losses_of(tmp_path / "whole")[-3:]


@pytest.mark.parametrize("base_weights", ["int8", "fp8"])
def test_weights_in_8_bits_train(base_weights: str, tmp_path: Path) -> None:
    config = anima(tmp_path, precision__base_weights=base_weights, precision__gradient_checkpointing=True)
    train(config, tmp_path / "run")
    want = anima(tmp_path / "b")
    train(want, tmp_path / "b/run")
    assert losses_of(tmp_path / "run")[0] == pytest.approx(losses_of(tmp_path / "b/run")[0], rel=0.03)


def test_sample_images_have_the_size_asked_for(tmp_path: Path) -> None:
    from PIL import Image

    prompts = ["a red hat --w 96 --h 70", "tok"]
    config = anima(tmp_path, preview__prompts=prompts, preview__steps=2, preview__baseline=False)
    train(config, tmp_path / "run")
    sizes = [Image.open(path).size for path in sorted((tmp_path / "run").rglob("*.png"))]
    assert (96, 64) in sizes and len(sizes) == 2


def test_times_are_drawn_as_the_family_is_trained() -> None:
    config = TrainConfig().loss
    base = open_base(BaseConfig(checkpoint=str(tiny_base("anima"))))
    shares = torch.tensor([base.objective().draw(config, index) / 1000 for index in range(4000)])
    # The logistic of a standard normal: its logits have mean 0 and deviation 1.
    logits = shares.logit()
    assert abs(logits.mean()) < 0.06 and abs(logits.std() - 1) < 0.06
    config.timestep_distribution = "uniform"
    assert 0.27 < torch.tensor([draw_share(config, "logit-normal", index) for index in range(2000)]).std() < 0.30


def test_sides_that_no_patch_fits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.bucket_step is 8.*multiples of 16 px"):
        train(anima(tmp_path, dataset__bucket_step=8), tmp_path / "run")


def test_the_estimate_knows_the_released_model() -> None:
    config = TrainConfig()
    config.base.family = "anima"
    config.network.dim, config.network.alpha = 32, 16.0
    config.precision.device = "cuda"
    found = estimate(config)
    assert (found.trainable_parameters, found.modules) == (45_875_200, 280)
    assert found.peak_bytes is not None and found.peak_bytes < 6.5e9
    config.precision.base_weights = "int8"
    smaller = estimate(config)
    assert smaller.peak_bytes is not None and smaller.peak_bytes < 4.5e9


def test_the_estimated_size_is_the_files(tmp_path: Path) -> None:
    config = anima(tmp_path)
    size = Path(train(config, tmp_path / "run").adapters[-1]).stat().st_size
    assert abs(estimate(config, memory=False).file_bytes - size) < 600  # of metadata that is known at the end alone
    assert json.loads(json.dumps(estimate(config, memory=False).to_dict()))["base"] == "Anima"
