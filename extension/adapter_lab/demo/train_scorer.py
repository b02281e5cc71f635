"""Trains and calibrates the scorer on drawings, clean and as the toy VAE renders them."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from .architecture import autocast
from .drawing import draw_scene
from .scorer import PLACES, ScorerNet, attribute_logits, figure_labels, read_pictures
from .train_vae import Say, to_tensor
from .world import ATTRIBUTES, BACKGROUNDS, VALUES, Scene, sample_scene


def drawings(count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """`count` scenes with every value there is, half with two figures, and their images at 64 x 64, uint8."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, 1 + index % 2, VALUES) for index in range(count)]
    return scenes, np.stack([np.asarray(draw_scene(scene, rng).reduce(2)) for scene in scenes])


@torch.no_grad()
def through_vae(vae: AutoencoderKL, scenes: list[Scene], seed: int, noise: float = 0.1) -> np.ndarray:
    """The scenes drawn, encoded, disturbed and decoded, at 64 x 64, uint8: as generated images look."""
    rng, generator, parts = random.Random(seed), torch.Generator().manual_seed(seed), []
    for start in range(0, len(scenes), 32):
        batch = to_tensor(np.stack([np.asarray(draw_scene(scene, rng)) for scene in scenes[start : start + 32]]))
        with autocast():
            latents = vae.encode(batch).latent_dist.mean.float()
            latents += noise / vae.config.scaling_factor * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(latents).sample.float()
        pictures = F.avg_pool2d(decoded.clamp(-1, 1), 2)
        parts.append(((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def _labels(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Figure labels (n, 3 places, attributes), -1 where there is no figure, and (n, 2) background and count."""
    figures = torch.full((len(scenes), len(PLACES), len(ATTRIBUTES)), -1)
    for row, scene in enumerate(scenes):
        for place, figure in enumerate(scene.figures, start=len(scene.figures) - 1):
            figures[row, place] = torch.tensor(figure_labels(figure))
    return figures, torch.tensor([[BACKGROUNDS.index(s.background), len(s.figures) - 1] for s in scenes])


def _augment(batch: torch.Tensor) -> torch.Tensor:
    """Small shifts, noise and contrast, the same for a batch."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    batch = torch.roll(batch, (dy, dx), (2, 3)) * (1 + 0.1 * torch.randn(len(batch), 1, 1, 1))
    return batch + 0.05 * torch.rand(len(batch), 1, 1, 1) * torch.randn_like(batch)


def train_scorer(
    folder: Path, vae: AutoencoderKL, steps: int, say: Say, seed: int = 3, pictures: int = 14000, held_out: int = 2000
) -> dict[str, Any]:
    """Trains for `steps`, writes scorer.safetensors and scorer_error.json into `folder`, returns the errors."""
    torch.manual_seed(seed)
    scenes, drawn = drawings(pictures, seed)
    rendered = scenes[: pictures // 3]
    seen_by_net = np.concatenate([drawn, through_vae(vae, rendered, seed)])
    figures, others = _labels(scenes + rendered)
    net, started = ScorerNet(), time.monotonic()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 50, max(0.01, (steps - step) / (steps * 0.6)))
        rows = torch.randint(0, len(seen_by_net), (64,))
        with autocast():
            logits_of = net(_augment(to_tensor(seen_by_net[rows.numpy()])))
        seen, background, count = (logits.float() for logits in logits_of)
        loss = F.cross_entropy(background, others[rows, 0]) + F.cross_entropy(count, others[rows, 1])
        for index, logits in enumerate(attribute_logits(seen)):
            loss = loss + F.cross_entropy(logits.flatten(0, 1), figures[rows, :, index].flatten(), ignore_index=-1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            say(f"scorer {step}/{steps} loss {loss.item():.4f} {(step + 1) / (time.monotonic() - started):.2f} it/s")
    half = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    save_file(half, folder / "scorer.safetensors", metadata={"step": str(steps)})
    errors = calibrate(load_scorer(half), vae, seed + 1000, held_out)
    (folder / "scorer_error.json").write_text(json.dumps(errors, indent=1) + "\n", encoding="utf-8")
    say(f"scorer errors {errors}")
    return errors


def load_scorer(tensors: dict[str, torch.Tensor] | Path) -> ScorerNet:
    """The scorer from its tensors or its training file."""
    net = ScorerNet()
    net.load_state_dict(load_file(tensors) if isinstance(tensors, Path) else tensors)
    return net.eval().requires_grad_(False)


def error_rates(net: ScorerNet, scenes: list[Scene], pictures: np.ndarray) -> dict[str, float]:
    """Share of wrong readings: per attribute, background and number of figures, and over all attributes."""
    wrong = dict.fromkeys([*ATTRIBUTES, "background", "figures"], 0)
    total = 0
    for wanted, seen in zip(scenes, read_pictures(net, to_tensor(pictures)), strict=True):
        wrong["background"] += wanted.background != seen.background
        wrong["figures"] += len(wanted.figures) != len(seen.figures)
        total += len(wanted.figures)
        for index, figure in enumerate(wanted.figures):
            other = seen.figures[index] if index < len(seen.figures) else None
            for name in ATTRIBUTES:
                wrong[name] += other is None or getattr(figure, name) != getattr(other, name)
    rates = {name: wrong[name] / total for name in ATTRIBUTES}
    mean = sum(rates.values()) / len(rates)
    return {"attributes": mean, **rates, **{name: wrong[name] / len(scenes) for name in ("background", "figures")}}


def calibrate(net: ScorerNet, vae: AutoencoderKL, seed: int, count: int = 2000) -> dict[str, Any]:
    """Error rates on held-out drawings, clean and through the VAE."""
    scenes, pictures = drawings(count, seed)
    rendered = scenes[: count // 2]
    return {
        "pictures": count,
        "drawn": error_rates(net, scenes, pictures),
        "through_vae": error_rates(net, rendered, through_vae(vae, rendered, seed + 1, 0.05)),
    }
