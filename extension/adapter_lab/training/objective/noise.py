"""The random draws of a training step: timesteps, noise, and the variants of noise.

Every draw comes from a CPU generator seeded by (purpose, seed, step, image, repeat) alone. So all variants of a study
see the same noise, dividing a step into more batches changes nothing, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from adapter_lab.config import LossConfig


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*parts)`."""
    # The CPU generator takes only the low 32 bits of a seed, which are as well mixed as the others.
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_everything(*parts: object) -> None:
    """Seed torch's own generators, which dropout inside the network draws from."""
    # Not torch.manual_seed, which without a GPU keeps a formatted stack trace of every call, for good.
    seed = seed_of(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def draw_share(config: LossConfig, usual: str, *parts: object) -> float:
    """How far into the noise a sample is, from 0 to 1, by the settings' distribution and shift (Esser et al. 2024).

    `usual`: the distribution where the settings leave it open.
    """
    generator = generator_of("timestep", *parts)
    if (usual if config.timestep_distribution == "auto" else config.timestep_distribution) == "logit-normal":
        drawn = torch.randn((), generator=generator, dtype=torch.float64)
        share = (config.timestep_mean + config.timestep_std * drawn).sigmoid().item()
    else:
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
    shift = config.timestep_shift
    return shift * share / (1 + (shift - 1) * share)


def draw_noise(shape: Sequence[int], config: LossConfig, *parts: object) -> Tensor:
    """Noise eps (C, h, w) fp32 on the CPU for one sample, with noise offset and pyramid noise as configured."""
    noise = torch.randn(tuple(shape), generator=generator_of("noise", *parts))
    if config.noise_offset > 0:
        channels = shape[0]
        noise += config.noise_offset * torch.randn((channels, 1, 1), generator=generator_of("offset", *parts))
    if config.multires_noise_iterations > 0:
        noise = _add_coarser_levels(noise, config, generator_of("multires", *parts))
    return noise


def draw_perturbation(shape: Sequence[int], config: LossConfig, *parts: object) -> Tensor | None:
    """Extra noise (C, h, w) for the UNet's input only (Ning et al. 2023), or None where it is off."""
    if config.input_perturbation <= 0:
        return None
    return config.input_perturbation * torch.randn(tuple(shape), generator=generator_of("perturbation", *parts))


def draw_posterior(shape: Sequence[int], *parts: object) -> Tensor:
    """Standard normal values (C, h, w) that choose a sample of the VAE's posterior."""
    return torch.randn(tuple(shape), generator=generator_of("posterior", *parts))


def _add_coarser_levels(noise: Tensor, config: LossConfig, generator: torch.Generator) -> Tensor:
    """Multi-resolution noise: coarser levels, each 2 to 4 times smaller, then unit variance again (Whitaker 2023)."""
    channels, height, width = noise.shape
    shrink, strength = 1.0, 1.0
    for _ in range(config.multires_noise_iterations):
        shrink *= 2 + 2 * torch.rand((), generator=generator, dtype=torch.float64).item()
        strength *= config.multires_noise_discount
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        level = torch.randn((1, channels, *size), generator=generator)
        noise = noise + strength * F.interpolate(level, (height, width), mode="bilinear", align_corners=False)[0]
        if min(size) == 1:
            break
    return noise / noise.std()
