"""Measures the toy base, with or without an adapter: likeness, bleeding, and what is left of ordinary tags."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapter_lab.training.bases.text import TextOutput

from .architecture import LATENT_SIZE
from .dataset import character_scene
from .scorer import ScorerNet, likeness, read_pictures, score_pair, tag_accuracy
from .world import CHARACTERS, Scene, character_caption, compose_caption, figure_tags, sample_scene

STEPS = 20
GUIDANCE = 3.0


@dataclass(frozen=True)
class Prompt:
    """A prompt, the seed of its noise and the scene a perfect model would draw."""

    text: str
    seed: int
    scene: Scene


@dataclass(frozen=True)
class Evaluation:
    """Means over the images of each group, all in 0..1."""

    likeness_first: float
    likeness_second: float
    likeness_together: float
    complete_together: float
    bleeding: float
    tags_one: float
    tags_two: float
    pictures: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def character_prompts(cast: Sequence[int], count: int, seed: int) -> list[Prompt]:
    """`count` prompts that ask for the new characters with these indices; a pair is asked for in either order."""
    rng, prompts = random.Random(seed), []
    for index in range(count):
        order = list(cast) if index % 2 == 0 else list(cast)[::-1]
        characters = [CHARACTERS[i] for i in order]
        scene = character_scene(characters, rng)
        text = character_caption(scene, [character.trigger for character in characters])
        prompts.append(Prompt(text, rng.getrandbits(31), scene))
    return prompts


def ordinary_prompts(figures: int, count: int, seed: int) -> list[Prompt]:
    """`count` fully tagged prompts of the base's own world."""
    rng, prompts = random.Random(seed), []
    for _ in range(count):
        scene = sample_scene(rng, figures)
        text = compose_caption([list(figure_tags(figure).values()) for figure in scene.figures], scene.background)
        prompts.append(Prompt(text, rng.getrandbits(31), scene))
    return prompts


@dataclass(frozen=True)
class Parts:
    """What makes images: the denoiser and the VAE, and how a base of their family uses them.

    `denoise` answers for latents (n, c, h, w) at times (n,) and encoded captions; `decode` gives images (n, 3, h, w) of
    latents with `channels`; `sampler` makes a scheduler of diffusers with so many steps set.
    """

    unet: Any
    vae: Any
    encode: Callable[[list[str]], TextOutput]
    denoise: Callable[[Tensor, Tensor, TextOutput], Tensor]
    decode: Callable[[Tensor], Tensor]
    channels: int
    sampler: Callable[[int], Any]


@torch.no_grad()
def generate(parts: Parts, prompts: Sequence[Prompt], batch: int = 24, steps: int = STEPS) -> torch.Tensor:
    """One image per prompt, float (n, 3, 128, 128) in [-1, 1], with classifier-free guidance.

    An image depends on its prompt and seed only, not on the batch it is in. Previews and hosts draw with whole
    pipelines; this is the same computation for many prompts at once.
    """
    pictures = []
    for start in range(0, len(prompts), batch):
        part, scheduler = prompts[start : start + batch], parts.sampler(steps)
        text = parts.encode([*[""] * len(part), *(prompt.text for prompt in part)])
        shape = (1, parts.channels, LATENT_SIZE, LATENT_SIZE)
        latents = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(p.seed)) for p in part])
        for timestep in scheduler.timesteps:
            with sdpa_kernel(SDPBackend.MATH):  # on a CPU the flash kernel is slow for so few pixels
                both = parts.denoise(torch.cat([latents] * 2), timestep.expand(2 * len(part)), text)
            empty, wanted = both.chunk(2)
            latents = scheduler.step(empty + GUIDANCE * (wanted - empty), timestep, latents).prev_sample
        pictures.append(parts.decode(latents).clamp(-1, 1))
    return torch.cat(pictures)


def evaluate(parts: Parts, scorer: ScorerNet, count: int = 24, seed: int = 100, steps: int = STEPS) -> Evaluation:
    """Draws `count` images of each group (first, second, both, one ordinary figure, two) and scores them."""
    groups = [
        character_prompts([0], count, seed),
        character_prompts([1], count, seed + 1),
        character_prompts([0, 1], count, seed + 2),
        ordinary_prompts(1, count, seed + 3),
        ordinary_prompts(2, count, seed + 4),
    ]
    pictures = generate(parts, [prompt for group in groups for prompt in group], steps=steps)
    seen = read_pictures(scorer, pictures)
    first, second, together, one, two = (seen[index * count : (index + 1) * count] for index in range(5))
    pairs = [score_pair(scene) for scene in together]
    return Evaluation(
        likeness_first=fmean(likeness(scene.figures[0], CHARACTERS[0]) for scene in first),
        likeness_second=fmean(likeness(scene.figures[0], CHARACTERS[1]) for scene in second),
        likeness_together=fmean(pair.likeness for pair in pairs),
        complete_together=fmean(pair.complete for pair in pairs),
        bleeding=fmean(pair.bleeding for pair in pairs),
        tags_one=fmean(tag_accuracy(p.scene, s) for p, s in zip(groups[3], one, strict=True)),
        tags_two=fmean(tag_accuracy(p.scene, s) for p, s in zip(groups[4], two, strict=True)),
        pictures=5 * count,
    )


def likeness_alone(parts: Parts, scorer: ScorerNet, count: int = 24, seed: int = 100) -> float:
    """Mean likeness, 0 to 1, of `count` images of each character alone: those of `evaluate` with the same seed."""
    prompts = [prompt for index in (0, 1) for prompt in character_prompts([index], count, seed + index)]
    seen = read_pictures(scorer, generate(parts, prompts))
    return fmean(likeness(scene.figures[0], CHARACTERS[index // count]) for index, scene in enumerate(seen))
