"""Rectified flow: times, mixtures and targets by the papers' formulas, its sampler, and a run on a base that has it."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.config import BaseConfig, LossConfig
from adapter_lab.errors import ConfigError
from adapter_lab.runs.events import read_events
from adapter_lab.training.bases import open_base
from adapter_lab.training.loop import train
from adapter_lab.training.objective.objective import Diffusion, Flow, scaled_linear_alphas_cumprod
from tests.support.checkpoints import write_diffusers_folder
from tests.support.training import losses_of, tiny_base, tiny_config

FLOW = Flow()


def test_the_mixture_goes_straight_from_latents_to_noise_and_the_target_is_its_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    times = FLOW.times([0.0, 250.0, 1000.0])
    mixed, target = FLOW.mix(latents, noise, times), FLOW.target(latents, noise, times)
    assert torch.equal(mixed[0], latents[0]) and torch.equal(mixed[2], noise[2])
    torch.testing.assert_close(mixed[1], 0.75 * latents[1] + 0.25 * noise[1], rtol=1e-6, atol=1e-6)
    later = FLOW.mix(latents, noise, times + 1.0)
    torch.testing.assert_close((later - mixed) * 1000, target, rtol=1e-3, atol=1e-3)
    assert FLOW.snr(FLOW.times([500.0])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_sampler_arrives_at_the_latents_that_the_velocity_points_to(shift: float) -> None:
    latents, noise = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    scheduler = FLOW.sampler(7, shift)
    found, times = noise, scheduler.timesteps
    assert len(times) == 7 and times[0] == 1000 and (times.diff() < 0).all()
    s = (1000 - 1000 / 7) / 1000
    assert times[1].item() == pytest.approx(1000 * shift * s / (1 + (shift - 1) * s), rel=1e-5)
    for time in times:
        torch.testing.assert_close(found, FLOW.mix(latents, noise, time.expand(1)), rtol=1e-4, atol=1e-4)
        found = scheduler.step(noise - latents, time, found).prev_sample
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)


def drawn(config: LossConfig, count: int = 4000) -> list[float]:
    return [FLOW.draw(config, 7, number) / 1000 for number in range(count)]


def test_times_are_drawn_as_the_settings_say() -> None:
    even = drawn(LossConfig())
    assert fmean(even) == pytest.approx(0.5, abs=0.02) and min(even) > 0 and max(even) < 1
    # The logit of a logit-normal number is normal.
    bent = drawn(LossConfig(timestep_distribution="logit-normal", timestep_mean=0.5, timestep_std=2.0))
    logits = torch.tensor(bent, dtype=torch.float64).logit().tolist()
    assert fmean(logits) == pytest.approx(0.5, abs=0.1) and pstdev(logits) == pytest.approx(2.0, abs=0.1)
    shifted = drawn(LossConfig(timestep_shift=3.0))
    assert shifted == pytest.approx([3 * share / (1 + 2 * share) for share in even], abs=1e-6)
    bounded = drawn(LossConfig(timestep_min=200, timestep_max=399), 500)
    assert min(bounded) >= 0.2 and max(bounded) <= 0.4


def test_diffusion_draws_whole_timesteps_of_the_same_distributions() -> None:
    schedule = Diffusion(scaled_linear_alphas_cumprod(), "epsilon")
    settings = LossConfig(timestep_shift=3.0)
    pairs = [(schedule.draw(settings, 7, n), FLOW.draw(settings, 7, n)) for n in range(200)]
    assert all(type(whole) is int and whole == int(exact) for whole, exact in pairs)


def test_a_run_on_a_flow_base_trains_draws_and_says_so(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, "sdxl", base__prediction="flow", loss__timestep_distribution="logit-normal", run__steps=4
    )
    config.preview.prompts, config.preview.steps, config.preview.shift = ["a cat"], 3, 2.5
    config.dataset.validation_fraction = 0.25
    result = train(config, tmp_path / "run")
    losses = losses_of(tmp_path / "run")
    # eps - x0 of a base that knows nothing: the two variances together.
    assert len(losses) == 4 and all(0.5 < loss < 50 for loss in losses)
    metadata = AdapterFile.open(result.adapters[-1]).metadata
    assert metadata["modelspec.prediction_type"] == "flow" and metadata["ss_v_parameterization"] == "False"
    assert len(list((tmp_path / "run").rglob("*.png"))) >= 2
    said = [event["message"] for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "note"]
    assert any("Prediction type: flow" in sentence for sentence in said)


def test_weightings_made_for_diffusion_are_refused_by_name(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "sdxl", base__prediction="flow", loss__min_snr_gamma=5.0)
    with pytest.raises(ConfigError, match=r"loss\.min_snr_gamma weighs by the noise of diffusion"):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="Rectified flow has no noise schedule"):
        open_base(BaseConfig(checkpoint=str(tiny_base("sdxl")), prediction="flow", zero_terminal_snr="yes"))


def test_a_pipeline_with_a_flow_scheduler_is_known_by_it(tmp_path: Path) -> None:
    folder = write_diffusers_folder(
        tmp_path / "pipeline", "sdxl", scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler"}
    )
    base = open_base(BaseConfig(checkpoint=str(folder)))
    assert base.prediction == "flow" and any("scheduler_config.json" in finding for finding in base.findings)
