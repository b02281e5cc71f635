"""Making the toy Anima: the stages run, go on where they were broken off, and write files the ordinary loader opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapter_lab.config import BaseConfig
from adapter_lab.demo import train_anima
from adapter_lab.demo.anima_parts import decoded, posterior
from adapter_lab.demo.bases import ANIMA_FILE, TOYS, toy_of
from adapter_lab.demo.evaluate import character_prompts, generate
from adapter_lab.demo.make_anima import Effort, make_anima
from adapter_lab.demo.run import TYPES, demo_config, load_parts
from adapter_lab.demo.study import demo_study
from adapter_lab.demo.toy_file import LARGEST
from adapter_lab.demo.train_base import draw_scenes
from adapter_lab.errors import AdapterLabError
from adapter_lab.families.anima import LATENT_MEAN, LATENT_STD
from adapter_lab.training.bases import open_base
from adapter_lab.validation import validate

CAPTIONS = ["duo, redhair, vexa, and, smile, night", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy made in a few steps; it has learned nothing, but every stage has run."""
    folder = tmp_path_factory.mktemp("anima")
    make_anima(folder / "work", folder / "toy", Effort.tiny())
    return folder


@pytest.fixture(scope="module")
def checkpoint(made: Path) -> Path:
    return made / "toy" / ANIMA_FILE.name


def test_a_second_run_repeats_no_stage_and_the_files_stay_small(made: Path) -> None:
    files = sorted((made / "work").glob("*.safetensors"))
    assert [file.stem for file in files] == ["base", "decoder", "latents", "vae"]
    before = [file.stat().st_mtime_ns for file in files]
    make_anima(made / "work", made / "toy", Effort.tiny())
    assert [file.stat().st_mtime_ns for file in files] == before
    assert sum(file.stat().st_size for file in (made / "toy").iterdir()) <= LARGEST


def test_it_is_known_as_an_anima_at_128_pixels_and_draws(checkpoint: Path) -> None:
    base = open_base(BaseConfig(checkpoint=str(checkpoint)))
    assert (base.family, base.prediction, base.resolution) == ("anima", "flow", 128)
    drawn = generate(load_parts(checkpoint), character_prompts([0], 2, seed=1), steps=2)
    assert drawn.shape == (2, 3, 128, 128) and drawn.isfinite().all()


@torch.no_grad()
def test_the_loader_computes_what_the_trained_modules_compute(made: Path, checkpoint: Path) -> None:
    """The loader's has every row of the context; the trained modules' own leaves out those that are zeros."""
    base, trained = (
        open_base(BaseConfig(checkpoint=str(checkpoint))),
        train_anima.load_base(made / "work").half().float(),
    )
    noisy, times = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.9])
    context = base.load_text_encoders(torch.float32).encode(CAPTIONS)
    found = base.denoise(base.load_unet(torch.float32), noisy, times * 1000, context, [])
    expected = trained(noisy, times, CAPTIONS)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@torch.no_grad()
def test_latents_have_the_mean_and_deviation_of_every_anima(made: Path, checkpoint: Path) -> None:
    vae, own = load_parts(checkpoint).vae, train_anima.load_vae(made / "work", "decoder")
    measured = load_file(made / "work" / "latents.safetensors")
    pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours, theirs = posterior(own, pictures)[0], posterior(vae, pictures)[0]
    normal = (theirs - _channels(LATENT_MEAN)) / _channels(LATENT_STD)
    expected = (ours - _channels(measured["mean"])) / _channels(measured["std"])
    torch.testing.assert_close(normal, expected, rtol=0.02, atol=0.02 * float(expected.std()))
    torch.testing.assert_close(decoded(vae, theirs), decoded(own, ours), rtol=0.02, atol=0.02)


def _channels(values: object) -> torch.Tensor:
    return torch.as_tensor(values).view(-1, 1, 1)


def test_a_broken_off_training_goes_on_as_if_nothing_had_been(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = draw_scenes(40, 7)
    monkeypatch.setattr(train_anima, "SAVE_EVERY", 0.0)
    results = []
    for folder, broken in ((tmp_path / "whole", False), (tmp_path / "broken", True)):
        folder.mkdir()
        (folder / "latents.safetensors").write_bytes((made / "work" / "latents.safetensors").read_bytes())
        said: list[str] = []

        def say(text: str, said: list[str] = said, broken: bool = broken) -> None:
            said.append(text)
            if broken and len(said) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(train_anima, "SAY_EVERY", 1)
        if broken:
            with pytest.raises(KeyboardInterrupt):
                train_anima.train_base(folder, 3, scenes, say)
        train_anima.train_base(folder, 3, scenes, say)
        assert said[-1].startswith("base 2/3")
        results.append(load_file(folder / "base.safetensors"))
    assert all(torch.equal(results[0][name], tensor) for name, tensor in results[1].items())


def test_the_copy_that_trains_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_lab.demo import anima_parts

    monkeypatch.setattr(anima_parts, "has_bf16", lambda: False)
    model = anima_parts.ToyAnima()
    torch.nn.init.normal_(model.unet.proj_out.weight, std=0.1)
    noisy, times = torch.randn(2, 16, 16, 16), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        expected, found = (made(noisy, times, CAPTIONS) for made in (model, anima_parts.fast_copy(model)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_the_demos_settings_are_valid_for_it(name: str, checkpoint: Path, tmp_path: Path) -> None:
    validate(demo_config(name, tmp_path, tmp_path, toy=checkpoint))


def test_the_toy_study_takes_it(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOYS, "anima", checkpoint)
    assert demo_study(tmp_path, base="anima").shared.base.checkpoint == str(checkpoint)


def test_a_toy_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TOYS, "anima", tmp_path / "none.safetensors")
    with pytest.raises(AdapterLabError, match=r"is not here; make it with `python -m adapter_lab.demo.make_anima`"):
        toy_of("anima")
