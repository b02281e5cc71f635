"""Makes a toy base for rectified flow out of the shipped one: `python -m adapter_lab.demo.make_flow`.

Its UNet learns the other objective on the same drawn world, in minutes; VAE, text encoders and scorer stay.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapter_lab import files
from adapter_lab.training.bases.ldm import ldm_state
from adapter_lab.training.objective.objective import STEPS as TIMES
from adapter_lab.training.objective.objective import Flow

from .architecture import autocast
from .run import load_parts
from .toy_file import TOY_FILE
from .train_base import EMPTY_RATE, caption_of, draw_scenes, encode_scenes, time_ids
from .train_vae import Say

STEPS, SCENES, BATCH, RATE, EMA_DECAY, SEED = 1000, 2000, 16, 6e-4, 0.99, 5
WARM_UP = 40


def make_flow(out: Path, say: Say, steps: int = STEPS, scenes: int = SCENES) -> None:
    """Train the toy's UNet for x_t = (1 - s) x0 + s eps with the answer eps - x0, and write the whole base, fp16."""
    torch.manual_seed(SEED)
    rng, started, flow = random.Random(SEED), time.monotonic(), Flow()
    parts, drawn = load_parts(TOY_FILE), draw_scenes(scenes, SEED)
    latents = encode_scenes(parts.vae, drawn) * parts.vae.config.scaling_factor
    say(f"latents of {scenes} images")
    unet = parts.unet.requires_grad_(True).train()
    average = copy.deepcopy(unet).requires_grad_(False)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    seen = 0.0
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.02, (steps - step) / (steps * 0.5)))
        optimiser.param_groups[0]["lr"] = RATE * rate
        rows = [rng.randrange(scenes) for _ in range(BATCH)]
        captions = ["" if rng.random() < EMPTY_RATE else caption_of(drawn[row][0], rng) for row in rows]
        clean, noise = latents[rows], torch.randn(BATCH, *latents.shape[1:])
        times = flow.times([max(1.0, TIMES * rng.random()) for _ in rows])
        with torch.no_grad():
            text = parts.encode(captions)
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            added = {"text_embeds": text.pooled, "time_ids": time_ids(BATCH, rng)}
            answer = unet(flow.mix(clean, noise, times), times, text.hidden, added_cond_kwargs=added).sample
        loss = F.mse_loss(answer.float(), flow.target(clean, noise, times))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
        seen = loss.item() if step == 0 else 0.98 * seen + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            say(f"flow {step}/{steps} loss {seen:.4f}, {time.monotonic() - started:.0f} s")
    files.write_bytes(out, _file(ldm_state("sdxl", average.state_dict(), {}, {})))


def _file(unet: dict[str, torch.Tensor]) -> bytes:
    """The toy file with another UNet, which says that it is trained for a rectified flow."""
    with safe_open(TOY_FILE, "pt") as file:
        metadata = {**file.metadata(), "modelspec.prediction_type": "flow", "modelspec.title": "Adapter Lab toy flow"}
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names if name != "v_pred"}
    assert unet.keys() <= tensors.keys()
    tensors |= {name: tensor.detach().half().contiguous() for name, tensor in unet.items()}
    return save(tensors, metadata=metadata)


def main() -> None:
    """Make it and say how it goes on."""
    parser = argparse.ArgumentParser(prog="python -m adapter_lab.demo.make_flow", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("toy-flow.safetensors"), help="the checkpoint to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    make_flow(chosen.out, lambda text: print(text, flush=True), chosen.steps)


if __name__ == "__main__":
    main()
