"""Weightings and losses against formulas of sd-scripts; benchmarks/against_sd_scripts.py runs its own code."""

from __future__ import annotations

import math

import pytest
import torch

from adapter_lab.config import HUBER_LOSSES, LossConfig, TrainConfig
from adapter_lab.training.objective.losses import (
    huber_deltas,
    sample_losses,
    snr_weights,
)
from adapter_lab.training.objective.objective import Diffusion, rescale_zero_terminal_snr, scaled_linear_alphas_cumprod
from adapter_lab.validation import problems, useless_weighting

STEPS = torch.arange(1000)
ABAR = scaled_linear_alphas_cumprod()
SNR = ABAR.double() / (1 - ABAR.double())
CAPPED = SNR.clamp_max(1000)

# Options, prediction -> the weight of each timestep.
WEIGHTS = [
    ({"min_snr_gamma": 5.0}, "epsilon", SNR.clamp_max(5) / SNR),
    ({"min_snr_gamma": 5.0}, "v_prediction", SNR.clamp_max(5) / (SNR + 1)),
    ({"debiased": True}, "epsilon", 1 / CAPPED.sqrt()),
    ({"debiased": True}, "v_prediction", 1 / (CAPPED + 1)),
    ({"v_as_epsilon": True}, "v_prediction", CAPPED / (CAPPED + 1)),
    ({"v_like": 0.5}, "epsilon", 1 + 0.5 * (CAPPED + 1) / CAPPED),
    (
        {"v_as_epsilon": True, "min_snr_gamma": 1.0},
        "v_prediction",
        SNR.clamp_max(1) / (SNR + 1) * CAPPED / (CAPPED + 1),
    ),
]


@pytest.mark.parametrize(("options", "prediction", "wanted"), WEIGHTS, ids=lambda value: str(value)[:40])
def test_weights_are_those_of_sd_scripts_at_every_timestep(options, prediction, wanted):
    found = snr_weights(Diffusion(ABAR, prediction), STEPS, LossConfig(**options))
    assert torch.allclose(found.double(), wanted, rtol=1e-6)


@pytest.mark.parametrize("options", [{"v_as_epsilon": True}, {"debiased": True}, {"v_like": 1.0}], ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_weight_is_finite_at_zero_terminal_snr(options, prediction):
    weights = snr_weights(Diffusion(rescale_zero_terminal_snr(ABAR), prediction), STEPS, LossConfig(**options))
    assert torch.isfinite(weights).all() and (weights >= 0).all()


@pytest.mark.parametrize(
    ("options", "prediction", "named"),
    [({"v_as_epsilon": True}, "epsilon", "v_as_epsilon"), ({"v_like": 0.5}, "v_prediction", "v_like")],
)
def test_a_weighting_that_the_base_leaves_without_effect_is_refused(options, prediction, named):
    assert [problem.setting for problem in useless_weighting(prediction, LossConfig(**options))] == [f"loss.{named}"]
    for other in {"auto", "epsilon", "v_prediction"} - {prediction}:
        assert useless_weighting(other, LossConfig(**options)) == []
    config = TrainConfig()
    config.base.prediction, config.loss = prediction, LossConfig(**options)
    assert f"loss.{named}" in [problem.setting for problem in problems(config, complete=False)]


SCHEDULES = {
    "constant": torch.full((1000,), 0.1, dtype=torch.float64),
    "snr": 0.9 / (1 + SNR.rsqrt()) ** 2 + 0.1,
    "exponential": torch.exp(math.log(0.1) * STEPS.double() / 1000),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_delta_follows_the_noise_as_in_sd_scripts(schedule):
    config = LossConfig(type="pseudo_huber", huber_delta=0.1, huber_schedule=schedule)
    found = huber_deltas(Diffusion(ABAR, "epsilon"), STEPS, config)
    assert torch.allclose(found.double(), SCHEDULES[schedule], rtol=1e-5)


def test_pseudo_huber_losses_and_l1_are_those_of_sd_scripts():
    prediction, target = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    deltas = torch.tensor([0.1, 0.5, 2.0])
    error, d = prediction - target, deltas.view(-1, 1, 1, 1)
    wanted = {
        "l1": error.abs(),
        "pseudo_huber": 2 * d * ((error**2 + d**2).sqrt() - d),
        "pseudo_smooth_l1": 2 * ((error**2 + d**2).sqrt() - d),
    }
    for kind, values in wanted.items():
        found = sample_losses(prediction, target, None, LossConfig(type=kind), deltas)
        assert torch.allclose(found, values.flatten(1).mean(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", HUBER_LOSSES)
def test_every_sample_has_the_delta_of_its_timestep(kind):
    errors = torch.full((2, 1, 2, 2), 0.7)
    both = sample_losses(errors, torch.zeros_like(errors), None, LossConfig(type=kind), torch.tensor([0.1, 0.4]))
    for index, delta in enumerate((0.1, 0.4)):
        one = sample_losses(errors[:1], torch.zeros(1, 1, 2, 2), None, LossConfig(type=kind, huber_delta=delta))
        assert both[index] == pytest.approx(one.item())
