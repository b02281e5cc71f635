"""One optimiser step: noise, the UNet's answer, loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapter_lab.config import LossConfig
from adapter_lab.families import LatentFormat
from adapter_lab.training.bases.base import Sizes
from adapter_lab.training.bases.text import TextOutput
from adapter_lab.training.dataset import Batch
from adapter_lab.training.denoiser.conditioning import Conditioning
from adapter_lab.training.denoiser.latents import LatentBatch
from adapter_lab.training.device.transfer import to_device
from adapter_lab.training.objective.losses import huber_deltas, sample_losses, snr_weights
from adapter_lab.training.objective.noise import (
    draw_noise,
    draw_perturbation,
    draw_posterior,
    seed_everything,
)
from adapter_lab.training.objective.objective import Objective

# `Base.denoise`.
Denoise = Callable[[Any, Tensor, Tensor, TextOutput, Sequence[Sizes]], Tensor]
# Latent positions up to which attention's whole matrix is small: 1024 are an image of 256 x 256 pixels.
SMALL_PICTURE = 1024


@dataclass(frozen=True)
class NoisyBatch:
    """What the UNet gets and should answer, on the device: x_t, target (B, C, h, w); times (B,) on the CPU."""

    noisy: Tensor
    target: Tensor
    times: Tensor


@dataclass
class Denoiser:
    """A base model's UNet with everything that its loss depends on."""

    unet: nn.Module
    objective: Objective
    conditioning: Conditioning
    denoise: Denoise
    latents: LatentFormat
    device: torch.device
    loss: LossConfig
    # What the frozen weights are stored and computed in. Adapter layers keep their own weights in fp32 and see to their
    # precision themselves, so there is no autocast, which would run every norm in fp32 and convert its output again.
    dtype: torch.dtype = torch.float32
    # Told how much of each sample is noise, (B,) from 0 to 1 on the device, before the UNet answers.
    tell_noise: Callable[[Tensor], None] = lambda shares: None

    def noise(
        self, batch: LatentBatch, draws: Sequence[tuple[object, ...]], times: Sequence[float] | None = None
    ) -> NoisyBatch:
        """Noise a batch; `draws` name each sample's random numbers, see noise.py. Times are drawn unless given."""
        shape = batch.mean.shape[1:]
        posterior = torch.stack([draw_posterior(shape, *names) for names in draws])
        posterior = to_device(posterior, batch.mean.device)
        latents = to_device(self.latents.normalise(batch.mean + batch.std * posterior), self.device)
        noise = torch.stack([draw_noise(shape, self.loss, *names) for names in draws])
        extra = [draw_perturbation(shape, self.loss, *names) for names in draws]
        shown = noise if extra[0] is None else noise + torch.stack([e for e in extra if e is not None])
        at = self.objective.times(times or [self.objective.draw(self.loss, *names) for names in draws])
        noise, shown = to_device(noise, self.device), to_device(shown, self.device)
        return NoisyBatch(
            self.objective.mix(latents, shown, at),
            self.objective.target(latents, noise, at),
            at,
        )

    def losses(
        self, batch: LatentBatch, draws: Sequence[tuple[object, ...]], times: Sequence[float] | None = None
    ) -> tuple[Tensor, list[float]]:
        """Plain loss (B,) fp32 of each sample on the device, and its time."""
        noisy = self.noise(batch, draws, times)
        text = self.conditioning(batch.batch.captions)
        prediction = self.predict(noisy, text, batch.batch)
        mask = None if batch.mask is None else to_device(batch.mask, self.device)
        deltas = huber_deltas(self.objective, noisy.times, self.loss)
        return sample_losses(prediction, noisy.target, mask, self.loss, deltas), noisy.times.tolist()

    def predict(self, noisy: NoisyBatch, text: TextOutput, batch: Batch) -> Tensor:
        """The UNet's answer (B, C, h, w)."""
        sizes = [(sample.original_size, sample.crop_top_left, sample.target_size) for sample in batch.items]
        times = to_device(noisy.times, self.device)
        self.tell_noise(times / self.objective.steps)
        return self.denoise(self.unet, noisy.noisy.to(self.dtype), times, text.cast(self.dtype), sizes)


def sample_weights(denoiser: Denoiser, batch: Batch, times: Sequence[float]) -> Tensor:
    """Weight (B,) on the device of each sample's loss: by noise level, and `prior_weight` for class images."""
    weights = snr_weights(denoiser.objective, denoiser.objective.times(times), denoiser.loss)
    prior = torch.tensor([denoiser.loss.prior_weight if s.is_regularisation else 1.0 for s in batch.items])
    return to_device(weights * prior, denoiser.device)


def attention_kernel(device: torch.device, latents: Tensor) -> AbstractContextManager[Any]:
    """Choose how attention is computed for `latents` (B, C, h, w): plain products for small images on a CPU.

    The CPU's flash kernel saves memory that small images do not need, and its backward pass takes much longer.
    """
    if device.type == "cpu" and latents.shape[2] * latents.shape[3] <= SMALL_PICTURE:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def accumulate_gradients(
    denoiser: Denoiser,
    batches: Sequence[LatentBatch],
    seed: int,
    step: int,
    backward: Callable[[Tensor], Any],
    total: int = 0,
) -> tuple[Tensor, list[tuple[str, float]]]:
    """Gradients of the mean weighted loss over all samples of a step.

    `total`: samples of the step where `batches` are one process's share of them; 0: these are all.

    Returns losses (2, N) on the device, weighted and plain, and (picture, time) of each sample. The mean is over
    the samples of all batches, so it does not matter into how many batches a step is divided.
    """
    total = total or sum(len(batch.batch) for batch in batches)
    columns: list[Tensor] = []
    samples: list[tuple[str, float]] = []
    for index, batch in enumerate(batches):
        seed_everything(seed, "dropout", step, index)
        kernel = attention_kernel(denoiser.device, batch.mean)
        # By image, not by place in the batch, so that the same images in other batches see the same noise.
        draws = [(seed, step, sample.key, sample.repeat) for sample in batch.batch.items]
        with kernel:  # around the backward pass too, where checkpointing computes the forward again
            plain, times = denoiser.losses(batch, draws)
            weighted = plain * sample_weights(denoiser, batch.batch, times)
            backward(weighted.sum() / total)
        columns.append(torch.stack([weighted.detach(), plain.detach()]))
        samples += zip([sample.key for sample in batch.batch.items], times)
    return torch.cat(columns, dim=1) if columns else torch.zeros(2, 0, device=denoiser.device), samples


def drawn_times(denoiser: Denoiser, batches: Sequence[LatentBatch], seed: int, step: int) -> list[tuple[str, float]]:
    """(picture, time) of each sample of a step, as `accumulate_gradients` draws them."""
    samples = [sample for batch in batches for sample in batch.batch.items]
    return [(s.key, denoiser.objective.draw(denoiser.loss, seed, step, s.key, s.repeat)) for s in samples]
