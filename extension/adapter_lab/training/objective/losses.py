"""The training loss of latent values, and weightings by signal-to-noise ratio (objective.py says what that is)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adapter_lab.config import LossConfig
from adapter_lab.training.device.transfer import to_device
from adapter_lab.training.objective.objective import EPSILON, Objective

# Debiased estimation weighs epsilon by 1 / sqrt(SNR), which has no bound at zero terminal SNR. The ordinary Stable
# Diffusion schedule ends at 0.0047, so this bound changes nothing there.
SMALLEST_SNR = 1e-3
# sd-scripts' bound on the SNR of the first timestep, 1176 in the ordinary schedule, for all weightings but min-SNR.
LARGEST_SNR = 1000.0


def snr_weights(objective: Objective, times: Tensor, config: LossConfig) -> Tensor:
    """Weight (B,) fp32 on the CPU of each sample's loss by its noise level.

    Min-SNR gamma (Hang et al. 2023) is min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v, which is
    the same weighting of x0. Debiased estimation (Yu et al. 2023) is 1 / sqrt(SNR) for epsilon; for v it is sd-scripts'
    1 / (SNR + 1), which weighs x0 evenly. SNR / (SNR + 1) makes the loss of v that of epsilon.
    """
    weights = torch.ones(times.shape, dtype=torch.float64)
    snr = objective.snr(times)
    bounded = snr.clamp_max(LARGEST_SNR)
    epsilon = objective.prediction == EPSILON
    if config.min_snr_gamma > 0:
        gamma = config.min_snr_gamma
        # gamma / max(SNR, gamma) is min(SNR, gamma) / SNR without the 0 / 0 at zero terminal SNR.
        weights *= gamma / snr.clamp_min(gamma) if epsilon else snr.clamp_max(gamma) / (snr + 1)
    if config.v_as_epsilon and not epsilon:
        weights *= bounded / (bounded + 1)
    if config.v_like > 0 and epsilon:
        weights *= 1 + config.v_like * (bounded + 1) / bounded.clamp_min(SMALLEST_SNR)
    if config.debiased:
        weights *= bounded.clamp_min(SMALLEST_SNR).rsqrt() if epsilon else 1 / (bounded + 1)
    return weights.float()


def huber_deltas(objective: Objective, times: Tensor, config: LossConfig) -> Tensor:
    """`huber_delta` (B,) fp32 on the CPU at each noise level, as sd-scripts' schedules have it.

    With d the setting and sigma = 1 / sqrt(SNR): snr is (1 - d) / (1 + sigma)^2 + d, exponential d^(t / T).
    """
    delta = config.huber_delta
    if config.huber_schedule == "snr":
        sigma = objective.snr(times).rsqrt()
        return ((1 - delta) / (1 + sigma).square() + delta).float()
    if config.huber_schedule == "exponential":
        return (delta ** (times.double() / objective.steps)).float()
    return torch.full(times.shape, delta)


def _bent(size: Tensor, delta: Tensor) -> Tensor:
    inner = size.minimum(delta)
    return inner.square() + 2 * delta * (size - inner)


def _pseudo_huber(size: Tensor, delta: Tensor) -> Tensor:
    return 2 * delta * ((size.square() + delta.square()).sqrt() - delta)


# Of the size of the error and delta, which broadcasts against it.
VALUE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda size, delta: size.square(),
    "l1": lambda size, delta: size,
    "huber": _bent,
    "smooth_l1": lambda size, delta: _bent(size, delta) / delta,
    "pseudo_huber": _pseudo_huber,
    "pseudo_smooth_l1": lambda size, delta: _pseudo_huber(size, delta) / delta,
}


def value_losses(prediction: Tensor, target: Tensor, config: LossConfig, deltas: Tensor | None = None) -> Tensor:
    """Loss of each latent value, shaped as `prediction` (B, ...), in fp32; `deltas` (B,): `huber_delta` by default.

    With e the error and d the delta: mse is e^2, l1 is |e|. Huber equals mse up to d and goes on straight with its
    slope, 2 d |e| - d^2. Pseudo-Huber is smooth, 2 d (sqrt(e^2 + d^2) - d). Both smooth L1 are these divided by d, so
    that their slope outside is 2 whatever d is.
    """
    size = (prediction.float() - target.float()).abs()
    if deltas is None:
        deltas = torch.full(size.shape[:1], config.huber_delta)
    return VALUE_LOSSES[config.type](size, to_device(deltas, size.device).view(-1, *[1] * (size.ndim - 1)))


def sample_losses(
    prediction: Tensor, target: Tensor, mask: Tensor | None, config: LossConfig, deltas: Tensor | None = None
) -> Tensor:
    """Mean loss (B,) fp32 of each sample, its values weighted by `mask` (B, 1, h, w) where there is one.

    The mean is over all values, so an image of which little is unmasked counts little. `deltas` as in `value_losses`.
    """
    losses = value_losses(prediction, target, config, deltas)
    if mask is not None:
        losses = losses * mask.to(losses)
    return losses.flatten(1).mean(dim=1)
