"""Trains the toy Anima: its VAE, then transformer, conditioner and text encoder together, as a rectified flow."""

from __future__ import annotations

import copy
import io
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapter_lab import files

from .anima_parts import ToyAnima, decoded, fast_copy, new_vae, posterior
from .architecture import autocast
from .drawing import draw_scene
from .train_base import EMPTY_RATE, caption_of
from .train_vae import DECODER_NOISE, Say, draw_pool, fit, reconstruction_loss, saved_step, to_tensor
from .world import VARIATION, Scene

RATE, BATCH, WEIGHT_DECAY, EMA_DECAY, WARM_UP = 1.5e-3, 32, 0.01, 0.999, 100
SAVE_EVERY = 120.0  # seconds
SAY_EVERY = 50  # steps


def vae_loss(vae: Any, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction of latents drawn from the posterior, and its KL divergence from a unit normal."""
    mean, logvar = posterior(vae, batch)
    drawn = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    reconstruction = reconstruction_loss(decoded(vae, drawn).float(), batch)
    mean, logvar = mean.float(), logvar.float()
    return reconstruction, 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def decoder_loss(vae: Any, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction from latents as imprecise as generated ones, with the encoder left as it is."""
    with torch.no_grad():
        mean = posterior(vae, batch)[0]
        spread = mean.std((0, 2, 3), keepdim=True)
        mean = mean + DECODER_NOISE * spread * torch.rand(()) * torch.randn_like(mean)
    return reconstruction_loss(decoded(vae, mean).float(), batch), torch.zeros(())


def load_vae(folder: Path, name: str = "vae") -> Any:
    """The trained VAE; `name` "decoder": the one whose decoder was trained to the end."""
    vae = new_vae()
    vae.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return vae.eval().requires_grad_(False)


def train_vae(folder: Path, steps: int, say: Say, pictures: int) -> None:
    """Trains the VAE and writes vae.safetensors (fp32, averaged weights) into `folder`."""
    path = folder / "vae.safetensors"
    vae = load_vae(folder).train().requires_grad_(True) if path.exists() else new_vae()
    fit(vae, list(vae.parameters()), vae_loss, path, steps, draw_pool(pictures, 1), say)


def train_decoder(folder: Path, steps: int, say: Say, pictures: int) -> None:
    """Trains only the decoder further and writes decoder.safetensors, the whole VAE, into `folder`."""
    path = folder / "decoder.safetensors"
    vae = load_vae(folder, "decoder" if path.exists() else "vae").train()
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in decoder:
        parameter.requires_grad_(True)
    fit(vae, decoder, decoder_loss, path, steps, draw_pool(pictures, 4), say)


@torch.no_grad()
def cache_latents(folder: Path, scenes: Sequence[tuple[Scene, int]], say: Say) -> None:
    """Writes latents.safetensors into `folder`: each channel with mean 0 and deviation 1, and what they were."""
    vae, found, started = load_vae(folder), [], time.monotonic()
    for start in range(0, len(scenes), 32):
        part = scenes[start : start + 32]
        drawn = np.stack([np.asarray(draw_scene(scene, random.Random(seed), VARIATION)) for scene, seed in part])
        with autocast():
            found.append(posterior(vae, to_tensor(drawn))[0].float())
    latents = torch.cat(found)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    scaled = (latents - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    content = save({"latents": scaled.half().contiguous(), "mean": mean, "std": std})
    files.write_bytes(folder / "latents.safetensors", content)
    took = time.monotonic() - started
    say(f"latents of {len(scenes)} images, deviations {std.min():.3f} to {std.max():.3f}, {took:.0f} s")


def train_base(folder: Path, steps: int, scenes: Sequence[tuple[Scene, int]], say: Say) -> None:
    """Trains the three models together and writes base.safetensors (fp32, EMA) into `folder`.

    Everything is kept in training.pt, and what a step draws depends on its number: a broken-off run goes on as if
    nothing had been.
    """
    latents = load_file(folder / "latents.safetensors")["latents"]
    torch.manual_seed(2)
    model = ToyAnima()
    average, working = copy.deepcopy(model).requires_grad_(False), Working(model)
    parameters: list[Tensor] = list(model.parameters())
    averages: list[Tensor] = list(average.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.99), fused=True)
    first = _restore(folder, model, average, optimiser)
    started, saved, seen = time.monotonic(), time.monotonic(), 0.0
    for step in range(first, steps):
        rate = min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.01, (steps - step) / (steps * 0.4)))
        optimiser.param_groups[0]["lr"] = RATE * rate
        loss = working.gradients(partial(_loss, latents=latents, scenes=scenes, step=step))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, parameters, 1 - decay)
        seen = loss.item() if step == first else 0.98 * seen + 0.02 * loss.item()
        if step % SAY_EVERY == 0 or step == steps - 1:
            say(f"base {step}/{steps} loss {seen:.4f} {(step + 1 - first) / (time.monotonic() - started):.2f} it/s")
        if time.monotonic() - saved > SAVE_EVERY:
            _keep(folder, model, average, optimiser, step + 1)
            saved = time.monotonic()
    content = save(average.state_dict(), metadata={"step": str(steps)})
    files.write_bytes(folder / "base.safetensors", content)


class Working:
    """A copy of a model that computes in bf16 where the CPU can, as autocast does, but rounds its weights only once."""

    def __init__(self, model: ToyAnima) -> None:
        self.model, self.copy = model, fast_copy(model)

    def gradients(self, loss_of: Callable[[ToyAnima], Tensor]) -> Tensor:
        """Sets the gradients of the model; returns the loss."""
        exact: list[Tensor] = list(self.model.parameters())
        fast: list[Tensor] = list(self.copy.parameters())
        with torch.no_grad():
            torch._foreach_copy_(fast, exact)
        self.copy.zero_grad(set_to_none=True)
        loss = loss_of(self.copy)
        loss.backward()
        for parameter, rounded in zip(exact, fast, strict=True):
            parameter.grad = None if rounded.grad is None else rounded.grad.float()
        return loss.detach()


def _loss(model: ToyAnima, latents: Tensor, scenes: Sequence[tuple[Scene, int]], step: int) -> Tensor:
    """Mean squared error of the velocity for a batch, at times t = sigmoid(normal)."""
    torch.manual_seed(1_000_003 * step)
    rng = random.Random(step)
    rows = [rng.randrange(len(scenes)) for _ in range(BATCH)]
    captions = ["" if rng.random() < EMPTY_RATE else caption_of(scenes[row][0], rng) for row in rows]
    clean = latents[rows].float()
    noise, times = torch.randn_like(clean), torch.sigmoid(torch.randn(BATCH))
    t = times.view(-1, 1, 1, 1)
    with sdpa_kernel(SDPBackend.MATH):  # on a CPU the flash kernel is slow for so few tokens
        answer = model(((1 - t) * clean + t * noise).to(model.dtype), times, captions)
    return F.mse_loss(answer.float(), noise - clean)


def _keep(folder: Path, model: nn.Module, average: nn.Module, optimiser: Any, step: int) -> None:
    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**state, "step": step}, buffer)
    files.write_bytes(folder / "training.pt", buffer.getvalue())


def _restore(folder: Path, model: nn.Module, average: nn.Module, optimiser: Any) -> int:
    """Reads training.pt where it is; returns the step to go on with."""
    if not (folder / "training.pt").exists():
        return 0
    state = torch.load(folder / "training.pt", weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    step: int = state["step"]
    return step


def load_base(folder: Path) -> ToyAnima:
    """The trained models, or where training still goes on their average so far."""
    model, path = ToyAnima(), folder / "base.safetensors"
    state = load_file(path) if path.exists() else torch.load(folder / "training.pt", weights_only=True)["average"]
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


__all__ = ["cache_latents", "load_base", "load_vae", "saved_step", "train_base", "train_decoder", "train_vae"]
