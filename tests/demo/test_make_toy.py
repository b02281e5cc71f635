"""Making the toy: the stages run, go on where they were broken off, and write a file the ordinary loader opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapter_lab.config import BaseConfig
from adapter_lab.demo import make_toy as making
from adapter_lab.demo.toy_file import open_scorer
from adapter_lab.demo.train_base import load_base
from adapter_lab.demo.train_vae import load_vae, saved_step
from adapter_lab.training.bases import open_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy made in a few steps; it has learned nothing, but every stage has run."""
    folder = tmp_path_factory.mktemp("toy")
    making.make_toy(folder / "work", folder / "toy.safetensors", folder / "error.json", making.Effort.tiny())
    return folder


def test_every_stage_leaves_its_file_and_a_second_run_repeats_none(made: Path) -> None:
    files = sorted((made / "work").glob("*.safetensors"))
    assert [file.stem for file in files] == ["base", "decoder", "latents", "scorer", "vae"]
    before = [file.stat().st_mtime_ns for file in files]
    first = load_file(made / "toy.safetensors")
    making.make_toy(made / "work", made / "toy.safetensors", made / "error.json", making.Effort.tiny())
    assert [file.stat().st_mtime_ns for file in files] == before
    again = load_file(made / "toy.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_broken_off_stage_goes_on_from_its_last_save(made: Path, tmp_path: Path) -> None:
    for name in ("vae.safetensors", "latents.safetensors"):
        (tmp_path / name).write_bytes((made / "work" / name).read_bytes())
    said: list[str] = []
    done = saved_step(tmp_path / "vae.safetensors")
    making.train_vae(tmp_path, done + 1, said.append, pictures=16)
    assert saved_step(tmp_path / "vae.safetensors") == done + 1
    assert said[0].startswith(f"vae {done}/{done + 1}")


def test_training_the_decoder_leaves_the_encoder_alone(made: Path) -> None:
    before, after = (load_vae(made / "work", name=name) for name in ("vae.safetensors", "decoder.safetensors"))
    encoders = [dict(vae.encoder.named_parameters()) for vae in (before, after)]
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    assert torch.equal(before.quant_conv.weight, after.quant_conv.weight)
    decoders = [dict(vae.decoder.named_parameters()) for vae in (before, after)]
    assert any(not torch.equal(decoders[0][name], decoders[1][name]) for name in decoders[0])


def test_the_loader_computes_what_the_trained_modules_compute(made: Path) -> None:
    """Same captions and noise through the modules that were trained and through those read from the file (fp16)."""
    trained = load_base(made / "work").half().float()
    base = open_base(BaseConfig(checkpoint=str(made / "toy.safetensors")))
    captions = ["solo, redhair, vexa, night", ""]
    hidden, pooled = trained.encode(captions)
    output = base.load_text_encoders(torch.float32).encode(captions)
    assert output.pooled is not None
    torch.testing.assert_close(output.hidden, hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.pooled, pooled, rtol=1e-5, atol=1e-5)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]] * 2)}
    steps = torch.tensor([40, 900])
    wanted = trained.unet(latents, steps, hidden, added_cond_kwargs=added).sample
    found = base.load_unet(torch.float32)(latents, steps, hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    vae = base.load_vae(torch.float32)
    original = load_vae(made / "work", float(vae.config.scaling_factor), "decoder.safetensors").half().float()
    torch.testing.assert_close(vae.decode(latents).sample, original.decode(latents).sample, rtol=1e-4, atol=1e-4)


def test_the_loader_recognises_sdxl_with_v_prediction_at_128_pixels(made: Path) -> None:
    base = open_base(BaseConfig(checkpoint=str(made / "toy.safetensors")))
    assert (base.family, base.prediction, base.resolution, base.latents.scale) == ("sdxl", "v_prediction", 128, 8)


def test_the_scorer_travels_in_the_same_file(made: Path) -> None:
    net = open_scorer(made / "toy.safetensors")
    figures, backgrounds, counts = net(torch.zeros(2, 3, 128, 128))
    assert figures.shape[:2] == (2, 3)
    assert backgrounds.shape == (2, 8)
    assert counts.shape == (2, 2)
