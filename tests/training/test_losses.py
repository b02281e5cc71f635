"""Noise schedule, targets, weightings and per-value losses, against the papers' formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from adapter_lab.config import LossConfig
from adapter_lab.training.objective.losses import (
    sample_losses,
    snr_weights,
    value_losses,
)
from adapter_lab.training.objective.objective import Diffusion, rescale_zero_terminal_snr, scaled_linear_alphas_cumprod

ABAR = scaled_linear_alphas_cumprod()
ZERO_SNR = rescale_zero_terminal_snr(ABAR)


def test_scaled_linear_schedule_has_the_published_end():
    assert ABAR.shape == (1000,)
    assert ABAR[0].item() == pytest.approx(1 - 0.00085, abs=1e-6)
    assert ABAR[-1].item() == pytest.approx(0.00466, abs=2e-5)


def test_zero_terminal_snr_keeps_the_start_and_ends_at_zero():
    assert ZERO_SNR[-1].item() == 0
    assert ZERO_SNR[0].item() == pytest.approx(ABAR[0].item(), abs=1e-7)
    assert (ZERO_SNR.diff() < 0).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("abar", [ABAR, ZERO_SNR], ids=["ordinary", "zero-terminal"])
def test_noisy_latents_and_target_give_back_the_latents(prediction, abar):
    schedule = Diffusion(abar, prediction)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([0, 250, 500, 998, 999])
    noisy = schedule.mix(latents, noise, timesteps)
    target = schedule.target(latents, noise, timesteps)
    signal = abar[timesteps].double().sqrt().view(-1, 1, 1, 1)
    sigma = (1 - abar[timesteps].double()).sqrt().view(-1, 1, 1, 1)
    if prediction == "epsilon":
        assert torch.allclose(noisy - sigma * target, signal * latents, atol=1e-12)
    else:
        assert torch.allclose(signal * noisy - sigma * target, latents, atol=1e-12)


def x0_error_as(prediction: str, error: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The error of the UNet's answer that an error of x0 amounts to, with x_t fixed."""
    eps_error = -(abar.sqrt() / (1 - abar).sqrt()) * error
    if prediction == "epsilon":
        return eps_error
    return abar.sqrt() * eps_error - (1 - abar).sqrt() * error


@pytest.mark.parametrize("options", [{"min_snr_gamma": 5.0}, {"min_snr_gamma": 1.0}], ids=str)
def test_a_weighting_means_the_same_for_epsilon_and_v(options):
    config = LossConfig(**options)
    timesteps = torch.tensor([0, 1, 100, 400, 700, 998])
    abar = ABAR[timesteps].double()
    error = torch.ones(6, dtype=torch.float64)
    weighted = []
    for prediction in ("epsilon", "v_prediction"):
        weights = snr_weights(Diffusion(ABAR, prediction), timesteps, config).double()
        weighted.append(weights * x0_error_as(prediction, error, abar).square())
    snr = abar / (1 - abar)
    expected = snr.clamp_max(config.min_snr_gamma)
    assert torch.allclose(weighted[0], expected, rtol=1e-5)
    assert torch.allclose(weighted[1], expected, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("options", [{}, {"min_snr_gamma": 5.0}, {"debiased": True}], ids=str)
def test_weights_are_finite_at_zero_terminal_snr(prediction, options):
    weights = snr_weights(Diffusion(ZERO_SNR, prediction), torch.arange(1000), LossConfig(**options))
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    if not options:
        assert (weights == 1).all()
    if options.get("min_snr_gamma") and prediction == "epsilon":
        assert weights[-1] == 1


@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber_and_smooth_l1_are_twice_torchs(kind, delta):
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(2, 4, 3, 8, 8, generator=generator)
    theirs = {
        "huber": lambda: torch.nn.functional.huber_loss(prediction, target, reduction="none", delta=delta),
        "smooth_l1": lambda: torch.nn.functional.smooth_l1_loss(prediction, target, reduction="none", beta=delta),
    }[kind]()
    ours = value_losses(prediction, target, LossConfig(type=kind, huber_delta=delta))
    assert torch.allclose(ours, 2 * theirs, atol=1e-6)


def test_huber_equals_mse_for_small_errors():
    prediction = torch.tensor([[0.05, -0.09]])
    target = torch.zeros(1, 2)
    mse = value_losses(prediction, target, LossConfig())
    assert torch.allclose(value_losses(prediction, target, LossConfig(type="huber")), mse, atol=1e-9)


def test_half_precision_answers_are_compared_in_fp32():
    prediction = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    losses = sample_losses(prediction, torch.zeros(1, 1, 2, 2), None, LossConfig())
    assert losses.dtype == torch.float32
    assert losses.item() == 90000


def test_masked_values_neither_count_nor_get_a_gradient():
    prediction = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    losses = sample_losses(prediction, torch.zeros_like(prediction), mask, LossConfig())
    losses.sum().backward()
    assert losses[1].item() == 0
    assert torch.allclose(losses[0], prediction[0, :, :2].square().mean() / 2)
    assert prediction.grad is not None
    assert (prediction.grad[0, :, 2:] == 0).all()
    assert (prediction.grad[0, :, :2] != 0).all()


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="sample"):
        dataclasses.replace(Diffusion(ABAR, "epsilon"), prediction="sample")
