"""Trains the toy base: UNet and both text encoders together, v-prediction on cached latents."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .architecture import SCHEDULE, TIME_IDS, autocast, new_text_encoders, new_unet
from .drawing import draw_scene
from .train_vae import Say, saved_step, to_tensor
from .vocabulary import END, build_tokenizer, write_tokenizer
from .world import VARIATION, Scene, sample_scene, training_caption

RATE = 1.5e-3
BATCH = 32
EMA_DECAY = 0.998
EMPTY_RATE = 0.1


class ToyBase(nn.Module):
    """UNet, text encoders and tokenizers of the toy base."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        data = build_tokenizer()
        vocab = data["vocab"]
        self.tokenizers: list[CLIPTokenizer] = []
        for index, pad in enumerate((END, "!")):
            write_tokenizer(data, folder / f"tokenizer{index}", pad)
            self.tokenizers.append(CLIPTokenizer.from_pretrained(folder / f"tokenizer{index}"))
        bos, eos = vocab["<|startoftext|>"], vocab[END]
        encoders = new_text_encoders(len(vocab), bos, eos)
        self.unet: UNet2DConditionModel = new_unet()
        self.te1: CLIPTextModel = encoders[0]
        self.te2: CLIPTextModelWithProjection = encoders[1]

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions to SDXL's conditions: both encoders' penultimate states (n, 77, 160), pooled output (n, 96)."""
        ids = [
            tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            for tokenizer in self.tokenizers
        ]
        first = self.te1(ids[0], output_hidden_states=True)
        second = self.te2(ids[1], output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds

    def forward(
        self, noisy: torch.Tensor, steps: torch.Tensor, captions: list[str], time_ids: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        """The UNet's prediction; where `keep` (n,) is 0 the condition is zeroed, as SDXL's pipeline may do."""
        hidden, pooled = self.encode(captions)
        conditions = {"text_embeds": pooled * keep[:, None], "time_ids": time_ids}
        return self.unet(noisy, steps, hidden * keep[:, None, None], added_cond_kwargs=conditions).sample


def draw_scenes(count: int, seed: int) -> list[tuple[Scene, int]]:
    """`count` scenes of the base's world with the seed each is drawn with; somewhat more than half have two figures."""
    rng = random.Random(seed)
    return [(sample_scene(rng, 1 if rng.random() < 0.45 else 2), rng.getrandbits(32)) for _ in range(count)]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: Sequence[tuple[Scene, int]]) -> torch.Tensor:
    """Posterior means of the drawn scenes, (n, 4, 16, 16), not yet scaled."""
    latents = []
    for start in range(0, len(scenes), 32):
        part = scenes[start : start + 32]
        pictures = np.stack([np.asarray(draw_scene(scene, random.Random(seed), VARIATION)) for scene, seed in part])
        with autocast():
            latents.append(vae.encode(to_tensor(pictures)).latent_dist.mean.float())
    return torch.cat(latents)


def cache_latents(vae: AutoencoderKL, folder: Path, scenes: list[tuple[Scene, int]], say: Say) -> None:
    """Writes latents.safetensors (scaled to unit variance, with the scaling factor) into `folder`."""
    started = time.monotonic()
    latents = encode_scenes(vae, scenes)
    factor = 1.0 / latents.std()
    tensors = {"latents": (latents * factor).half().contiguous(), "scaling_factor": factor[None]}
    save_file(tensors, folder / "latents.safetensors")
    say(f"latents of {len(scenes)} images, scaling factor {factor.item():.4f}, {time.monotonic() - started:.0f} s")


def alphas_cumprod() -> torch.Tensor:
    """SDXL's noise schedule (scaled_linear), (1000,)."""
    start, end = SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5
    betas = torch.linspace(start, end, SCHEDULE["num_train_timesteps"], dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def time_ids(count: int, rng: random.Random) -> torch.Tensor:
    """Mostly the pictures' true size; now and then another, so that other sizes are nothing the UNet never met."""
    ids = torch.tensor([TIME_IDS] * count)
    for row in range(count):
        if rng.random() < 0.15:
            ids[row, :2] = float(rng.randint(64, 512))
            ids[row, 2:4] = torch.tensor([float(rng.randint(0, 32)), float(rng.randint(0, 32))])
    return ids


def caption_of(scene: Scene, rng: random.Random) -> str:
    """Half the captions nearly complete, half with 40% of the tags left out: prompts with few tags need both."""
    return training_caption(scene, rng, tag_dropout=0.05 if rng.random() < 0.6 else 0.4)


def train_base(folder: Path, steps: int, scenes: list[tuple[Scene, int]], say: Say, seed: int = 2) -> None:
    """Trains for `steps` and writes base.safetensors (fp32, EMA) into `folder`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    latents = load_file(folder / "latents.safetensors")["latents"]
    model = ToyBase(folder)
    path, first = folder / "base.safetensors", 0
    if path.exists():  # go on from where a broken-off run had last saved
        model.load_state_dict(load_file(path))
        first = saved_step(path)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    cumulative, started, seen = alphas_cumprod(), time.monotonic(), 0.0
    for step in range(first, steps):
        rate = min(1.0, (step + 1 - first) / 60) * min(1.0, max(0.01, (steps - step) / (steps * 0.4)))
        optimiser.param_groups[0]["lr"] = RATE * rate
        rows = [rng.randrange(len(scenes)) for _ in range(BATCH)]
        clean = latents[rows].float()
        captions = [caption_of(scenes[row][0], rng) for row in rows]
        keep = torch.ones(BATCH)
        for row in range(BATCH):
            if rng.random() < EMPTY_RATE:
                captions[row], keep[row] = "", float(rng.random() < 0.5)
        timesteps, noise = torch.randint(0, 1000, (BATCH,)), torch.randn_like(clean)
        signal = cumulative[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - cumulative[timesteps]).sqrt()[:, None, None, None]
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            predicted = model(signal * clean + sigma * noise, timesteps, captions, time_ids(BATCH, rng), keep)
        loss = F.mse_loss(predicted.float(), signal * noise - sigma * clean)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(EMA_DECAY, (step + 1 - first) / (step + 10 - first))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        seen = loss.item() if step == first else 0.98 * seen + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            say(f"base {step}/{steps} loss {seen:.4f} {(step + 1 - first) / (time.monotonic() - started):.2f} it/s")
        if step % 300 == 299 or step == steps - 1:
            save_file(average.state_dict(), path, metadata={"step": str(step + 1)})


def load_base(folder: Path) -> ToyBase:
    """The trained base."""
    base = ToyBase(folder)
    base.load_state_dict(load_file(folder / "base.safetensors"))
    return base.eval().requires_grad_(False)
