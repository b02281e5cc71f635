"""The diffusion training loss: noise schedule, targets, and weightings by signal-to-noise ratio.

Symbols as in the papers: x0 are clean latents, eps the noise, abar_t the cumulative product of alphas,
x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, and SNR(t) = abar_t / (1 - abar_t).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adapter_lab.config import LossConfig
from adapter_lab.training.transfer import to_device

PREDICTIONS = ("epsilon", "v_prediction")

# Debiased estimation weighs epsilon by 1 / sqrt(SNR), which has no bound at zero terminal SNR. The ordinary Stable
# Diffusion schedule ends at 0.0047, so this bound changes nothing there.
SMALLEST_SNR = 1e-3


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal is left at each timestep, and what the UNet predicts.

    `alphas_cumprod`: (T,) fp32 on the CPU, falling from nearly 1; its last value may be 0 (zero terminal SNR).
    `prediction`: "epsilon" or "v_prediction".
    """

    alphas_cumprod: Tensor
    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {self.prediction!r}; known are {', '.join(PREDICTIONS)}")

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) as (B, 1, 1, 1) on the device and in the dtype of `like`."""
        abar = self.alphas_cumprod[timesteps].double()
        shape = (-1,) + (1,) * (like.ndim - 1)
        # Placed after the arithmetic, so that every device gets the same rounded values.
        signal, sigma = abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)
        return to_device(signal, like.device).view(shape), to_device(sigma, like.device).view(shape)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t for x0 `latents` and eps `noise`, both (B, C, h, w), at `timesteps` (B,) on the CPU."""
        signal, sigma = self.levels(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should answer: eps, or v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho 2022)."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self.levels(timesteps, latents)
        return signal * noise - sigma * latents

    def snr(self, timesteps: Tensor) -> Tensor:
        """SNR(t) (B,) in float64 on the CPU; 0 at zero terminal SNR."""
        abar = self.alphas_cumprod[timesteps].double()
        return abar / (1 - abar)


def scaled_linear_alphas_cumprod(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """abar of the schedule all Stable Diffusion bases were trained with: sqrt(beta) linear in t; (steps,) fp32."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """abar shifted and scaled so that it ends at exactly 0 and begins as before (Lin et al. 2023, algorithm 1)."""
    root = alphas_cumprod.double().sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return (((root - last) * (first / (first - last))) ** 2).to(alphas_cumprod.dtype)


def snr_weights(schedule: NoiseSchedule, timesteps: Tensor, config: LossConfig) -> Tensor:
    """Weight (B,) fp32 on the CPU of each sample's loss by its noise level.

    The weightings are defined on the error of x0. An error of eps counts SNR times that of x0, one of v SNR + 1 times,
    so that the same weighting of x0 reads:
    min-SNR gamma (Hang et al. 2023): min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v;
    debiased estimation (Yu et al. 2023): 1 / sqrt(SNR) for epsilon, sqrt(SNR) / (SNR + 1) for v.
    """
    weights = torch.ones(timesteps.shape, dtype=torch.float64)
    snr = schedule.snr(timesteps)
    epsilon = schedule.prediction == "epsilon"
    if config.min_snr_gamma > 0:
        gamma = config.min_snr_gamma
        # gamma / max(SNR, gamma) is min(SNR, gamma) / SNR without the 0 / 0 at zero terminal SNR.
        weights *= gamma / snr.clamp_min(gamma) if epsilon else snr.clamp_max(gamma) / (snr + 1)
    if config.debiased:
        weights *= snr.clamp_min(SMALLEST_SNR).rsqrt() if epsilon else snr.sqrt() / (snr + 1)
    return weights.float()


def value_losses(prediction: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Loss of each latent value, shaped as `prediction`, in fp32.

    With e the error and d `huber_delta`: mse is e^2. Huber equals mse up to d and goes on straight with its slope,
    2 d |e| - d^2. Smooth L1 is Huber divided by d, so that its slope outside is 2 whatever d is.
    """
    error = prediction.float() - target.float()
    if config.type == "mse":
        return error.square()
    delta = config.huber_delta
    size = error.abs()
    inner = size.clamp_max(delta)
    huber = inner.square() + 2 * delta * (size - inner)
    return huber if config.type == "huber" else huber / delta


def sample_losses(prediction: Tensor, target: Tensor, mask: Tensor | None, config: LossConfig) -> Tensor:
    """Mean loss (B,) fp32 of each sample, its values weighted by `mask` (B, 1, h, w) where there is one.

    The mean is over all values, so a picture of which little is unmasked counts little.
    """
    losses = value_losses(prediction, target, config)
    if mask is not None:
        losses = losses * mask.to(losses)
    return losses.flatten(1).mean(dim=1)
