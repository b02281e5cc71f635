"""Trains the toy VAE on drawings with every feature of the world and on random shapes."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .architecture import VAE, new_vae
from .drawing import SIZE, draw_scene, draw_shapes
from .world import VALUES, sample_scene

KL_WEIGHT = 3e-4  # weak: a posterior std of more than a few percent of the latents' own std only adds noise to learn
CROP = 64
RATE = 1.5e-3


def draw_pool(count: int, seed: int) -> np.ndarray:
    """`count` pictures, uint8 (count, 128, 128, 3): figures with every value there is, and random shapes."""
    rng = random.Random(seed)
    pool = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for index in range(count):
        if rng.random() < 0.12:
            image = draw_shapes(rng)
        else:
            image = draw_scene(sample_scene(rng, rng.choice((1, 2)), VALUES), rng)
        pool[index] = np.asarray(image)
    return pool


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batch(pool: np.ndarray, size: int, crop: int, rng: np.random.Generator) -> torch.Tensor:
    rows = rng.integers(0, len(pool), size)
    corners = rng.integers(0, SIZE - crop + 1, (size, 2))
    pictures = np.stack([pool[r, y : y + crop, x : x + crop] for r, (y, x) in zip(rows, corners, strict=True)])
    batch = to_tensor(pictures)
    if rng.random() < 0.1:  # other colours than the world's
        batch = batch[:, torch.from_numpy(rng.permutation(3))]
    return batch


def vae_loss(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction and KL terms of one batch; the first latents are sampled from the posterior."""
    posterior = vae.encode(batch).latent_dist
    picture = vae.decode(posterior.sample()).sample.float()
    reconstruction = F.l1_loss(picture, batch) + 2 * F.mse_loss(picture, batch)
    kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return reconstruction, kl


def saved_step(path: Path) -> int:
    """The step a training file was saved at."""
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("step", 0))


def train_vae(folder: Path, steps: int, say: Callable[[str], None], seed: int = 1) -> None:
    """Trains for `steps` and writes vae.safetensors (fp32, EMA) into `folder`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = draw_pool(8000, seed)
    vae = new_vae()
    path, first = folder / "vae.safetensors", 0
    if path.exists():  # go on from where a broken-off run had last saved
        vae.load_state_dict(load_file(path))
        first = saved_step(path)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=RATE, weight_decay=1e-4, betas=(0.9, 0.99))
    full_from, started, seen = int(steps * 0.9), time.monotonic(), 0.0
    for step in range(first, steps):
        rate = min(1.0, (step + 1) / 50) * (1.0 if step < steps * 0.5 else max(0.02, (steps - step) / (steps * 0.5)))
        optimiser.param_groups[0]["lr"] = RATE * rate
        batch = _batch(pool, 16, CROP, rng) if step < full_from else _batch(pool, 4, SIZE, rng)
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction, kl = vae_loss(vae, batch)
        optimiser.zero_grad(set_to_none=True)
        (reconstruction + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        decay = min(0.998, (step + 1 - first) / (step + 10 - first))
        torch._foreach_lerp_(list(average.parameters()), list(vae.parameters()), 1 - decay)
        seen = reconstruction.item() if step == first else 0.95 * seen + 0.05 * reconstruction.item()
        if step % 100 == 0 or step == steps - 1:
            rate_s = (step + 1 - first) / (time.monotonic() - started)
            say(f"vae {step}/{steps} reconstruction {seen:.4f} kl {kl.item():.3f} {rate_s:.2f} it/s")
        if step % 250 == 249 or step == steps - 1:
            save_file(average.state_dict(), path, metadata={"step": str(step + 1)})


def load_vae(folder: Path, scaling_factor: float = 1.0) -> AutoencoderKL:
    """The trained toy VAE."""
    vae = AutoencoderKL(**{**VAE, "scaling_factor": scaling_factor})
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    return vae.eval().requires_grad_(False)
