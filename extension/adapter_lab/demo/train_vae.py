"""Trains the toy VAE on drawings with every feature of the world and on random shapes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from adapter_lab import files

from .architecture import VAE, autocast, new_vae
from .drawing import SIZE, draw_scene, draw_shapes
from .world import VALUES, VARIATION, sample_scene

KL_WEIGHT = 3e-4  # weak: a posterior std of more than a few percent of the latents' own std only adds noise to learn
CROP = 64
DECODER_NOISE = 0.1
Say = Callable[[str], None]
RATE = 1.5e-3
SAVE_EVERY = 180.0  # seconds, at the latest


def draw_pool(count: int, seed: int) -> np.ndarray:
    """`count` images, uint8 (count, 128, 128, 3): figures with every value there is, and random shapes."""
    rng = random.Random(seed)
    pool = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for index in range(count):
        if rng.random() < 0.12:
            image = draw_shapes(rng)
        else:
            # Half as varied as can be, half as the base's images are.
            image = draw_scene(sample_scene(rng, rng.choice((1, 2)), VALUES), rng, rng.choice((1.0, VARIATION)))
        pool[index] = np.asarray(image)
    return pool


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batch(pool: np.ndarray, size: int, crop: int, rng: np.random.Generator) -> torch.Tensor:
    rows = rng.integers(0, len(pool), size)
    corners = rng.integers(0, SIZE - crop + 1, (size, 2))
    pictures = np.stack([pool[r, y : y + crop, x : x + crop] for r, (y, x) in zip(rows, corners, strict=True)])
    batch = to_tensor(pictures)
    if rng.random() < 0.1:  # other colours than the world's
        batch = batch[:, torch.from_numpy(rng.permutation(3))]
    return batch


def reconstruction_loss(picture: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """L1 plus twice MSE of images in [-1, 1]."""
    return F.l1_loss(picture, batch) + 2 * F.mse_loss(picture, batch)


def vae_loss(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction from latents sampled from the posterior, and its KL divergence from a unit normal."""
    posterior = vae.encode(batch).latent_dist
    reconstruction = reconstruction_loss(vae.decode(posterior.sample()).sample.float(), batch)
    kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return reconstruction, kl


def decoder_loss(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction with the encoder left as it is, from latents as imprecise as generated ones; no KL term."""
    with torch.no_grad():
        latents = vae.encode(batch).latent_dist.mean
        latents = latents + DECODER_NOISE * latents.std() * torch.rand(()) * torch.randn_like(latents)
    reconstruction = reconstruction_loss(vae.decode(latents).sample.float(), batch)
    return reconstruction, torch.zeros(())


def saved_step(path: Path) -> int:
    """The step a training file was saved at, 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("step", 0))


def train_vae(folder: Path, steps: int, say: Say, seed: int = 1, pictures: int = 8000) -> None:
    """Trains encoder and decoder for `steps` and writes vae.safetensors (fp32, averaged weights) into `folder`."""
    path, vae = folder / "vae.safetensors", new_vae()
    if path.exists():  # go on from where a broken-off run had last saved
        vae.load_state_dict(load_file(path))
    fit(vae, list(vae.parameters()), vae_loss, path, steps, draw_pool(pictures, seed), say)


def train_decoder(folder: Path, steps: int, say: Say, seed: int = 4, pictures: int = 8000) -> None:
    """Trains only the decoder further and writes decoder.safetensors, the whole VAE, into `folder`.

    The encoder stays, so the base's cached latents stay right, and this can be done after the base.
    """
    path = folder / "decoder.safetensors"
    vae = load_vae(folder, name=path.name if path.exists() else "vae.safetensors")
    decoder: list[torch.Tensor] = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in decoder:
        parameter.requires_grad_(True)
    fit(vae, decoder, decoder_loss, path, steps, draw_pool(pictures, seed), say)


def fit(
    vae: Any,
    parameters: list[torch.Tensor],
    loss: Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    path: Path,
    steps: int,
    pool: np.ndarray,
    say: Say,
) -> None:
    """AdamW with warm-up, a flat half and a linear end; crops first, whole images for the last tenth of the steps."""
    first = saved_step(path)
    torch.manual_seed(first)
    rng = np.random.default_rng(first)
    average = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-4, betas=(0.9, 0.99))
    started, saved, seen = time.monotonic(), time.monotonic(), 0.0
    for step in range(first, steps):
        warm, left = min(1.0, (step + 1 - first) / 50), (steps - step) / (steps * 0.5)
        optimiser.param_groups[0]["lr"] = RATE * min(warm, max(0.02, left))
        batch = _batch(pool, 16, CROP, rng) if step < steps * 0.9 else _batch(pool, 4, SIZE, rng)
        with autocast():
            reconstruction, kl = loss(vae, batch)
        optimiser.zero_grad(set_to_none=True)
        (reconstruction + KL_WEIGHT * kl).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, parameters, 1 - min(0.998, (step + 1 - first) / (step + 10 - first)))
        seen = reconstruction.item() if step == first else 0.95 * seen + 0.05 * reconstruction.item()
        last = step == steps - 1
        if step % 100 == 0 or last:
            speed = (step + 1 - first) / (time.monotonic() - started)
            say(f"{path.stem} {step}/{steps} reconstruction {seen:.4f} kl {kl.item():.3f} {speed:.2f} it/s")
        if step % 250 == 249 or last or time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            _save_average(vae, parameters, average, path, step + 1)


@torch.no_grad()
def _save_average(
    vae: nn.Module, parameters: list[torch.Tensor], average: list[torch.Tensor], path: Path, step: int
) -> None:
    """Writes the VAE with averaged weights, leaving it as it is."""
    current = [parameter.detach().clone() for parameter in parameters]
    torch._foreach_copy_(parameters, average)
    files.write_bytes(path, save(vae.state_dict(), metadata={"step": str(step)}))
    torch._foreach_copy_(parameters, current)


def load_vae(folder: Path, scaling_factor: float = 1.0, name: str = "vae.safetensors") -> AutoencoderKL:
    """The trained toy VAE; `name` decoder.safetensors for the one with the decoder trained to the end."""
    vae = AutoencoderKL(**{**VAE, "scaling_factor": scaling_factor})
    vae.load_state_dict(load_file(folder / name))
    return vae.eval().requires_grad_(False)
