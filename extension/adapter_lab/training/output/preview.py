"""Sample images while training: DDIM with classifier-free guidance on the modules that are being trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from adapter_lab.config import PreviewConfig
from adapter_lab.sample_prompts import read_prompt
from adapter_lab.training.bases import Base, TextOutput, TextStack
from adapter_lab.training.bases import vae as vaes

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_CHUNKS = 3
# Decoding an image takes about this much per pixel (256 channels of a few feature maps at full size).
DECODE_BYTES_PER_PIXEL = {torch.float32: 5000, torch.bfloat16: 2500, torch.float16: 2500}
TILE = 512
SMALL_TILE = 256  # where memory ran out once


class SamplingStopped(Exception):
    """An image was left unfinished; the message says why."""


@dataclass(frozen=True)
class PromptText:
    """A prompt and the negative prompt as the UNet reads them, batches of one with equally many tokens.

    `own`: preview settings of this prompt alone, from its flags.
    """

    prompt: str
    positive: TextOutput
    negative: TextOutput
    own: Mapping[str, Any] = field(default_factory=dict)


@torch.no_grad()
def encode_prompts(text_encoders: TextStack, preview: PreviewConfig) -> list[PromptText]:
    """Encode all prompts of the settings; with phased loading this happens before the text encoders are freed.

    Long prompts take up to 3 chunks of 75 tokens. SDXL's empty negative prompt is all zeros, as in diffusers and A1111.
    """
    texts = []
    for line in preview.prompts:
        read = read_prompt(line)
        unwanted = read.own.get("negative", preview.negative)
        length = text_encoders.captions.length([read.text, unwanted], LARGEST_CHUNKS)
        positive = text_encoders.encode([read.text], length)
        negative = text_encoders.encode([unwanted], length)
        if positive.pooled is not None and not unwanted.strip():
            negative = TextOutput(torch.zeros_like(positive.hidden), torch.zeros_like(positive.pooled))
        texts.append(PromptText(read.text, positive, negative, read.own))
    return texts


@torch.no_grad()
def sample(
    base: Base,
    unet: nn.Module,
    preview: PreviewConfig,
    texts: Sequence[PromptText],
    *,
    resolution: int = 0,
    vae: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    tile: int = 0,
    stop: Callable[[], str] = str,
) -> list[Image.Image]:
    """One image per prompt in `texts`; image i starts from noise of seed `preview.seed + i`, drawn on the CPU.

    A prompt's own settings (its flags) go before those of `preview`.
    `resolution` is the side where width or height is 0; itself 0: the base's. Sides are rounded down to whole latents.
    `vae` None: loaded for decoding only.
    `dtype` is what the UNet computes in, by default that of the text. `tile`: decode in tiles of this side; 0: only
    where memory is short. `stop` says before each sampling step why to end, which raises SamplingStopped. Uses no
    global random numbers. The caller sees to adapters being in eval mode and to autocast.
    """
    device = next(unet.parameters()).device
    dtype = dtype or texts[0].positive.hidden.dtype
    side = resolution or base.resolution
    step = base.latents.step
    latents = []
    with evaluating(unet):
        for i, text in enumerate(texts):
            mine = replace(preview, **{"seed": preview.seed + i, **text.own})
            width, height = (max(step, (size or side) // step * step) for size in (mine.width, mine.height))
            latents.append(sample_latents(base, unet, mine, [text], [mine.seed], (height, width), device, dtype, stop))
    vae = vae if vae is not None else base.load_vae(dtype, device)
    return [decode(vae, latent, tile) for latent in latents]


def sample_latents(
    base: Base,
    unet: Any,
    preview: PreviewConfig,
    texts: Sequence[PromptText],
    seeds: Sequence[int],
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    stop: Callable[[], str] = str,
) -> Tensor:
    """Scaled latents (B, C, h, w) in fp32 of images of `size` (height, width) pixels, drawn in one batch.

    All texts must have equally many tokens.
    """
    shape = (1, base.latents.channels, size[0] // base.latents.scale, size[1] // base.latents.scale)
    latents = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = latents.to(device)
    guidance, shift = chosen(preview.guidance, base.row.guidance), chosen(preview.shift, base.row.shift)
    scheduler = base.objective().sampler(preview.steps, shift)
    guided = guidance > 1
    both = [*(text.negative for text in texts if guided), *(text.positive for text in texts)]
    both = [entry.to(device, dtype) for entry in both]
    text = TextOutput(
        torch.cat(alike([entry.hidden for entry in both])),
        torch.cat([entry.pooled for entry in both if entry.pooled is not None]) if both[0].pooled is not None else None,
    )
    count = len(both)
    for time in scheduler.timesteps:
        if reason := stop():
            raise SamplingStopped(reason)
        noisy = torch.cat([latents] * (count // len(texts))).to(dtype)
        answer = base.denoise(unet, noisy, time.expand(count).to(device), text, [(size, (0, 0), size)] * count).float()
        if guided:
            negative, positive = answer.chunk(2)
            answer = negative + guidance * (positive - negative)
        latents = scheduler.step(answer, time, latents).prev_sample
    return latents


def chosen(value: float | str, usual: float) -> float:
    """A setting's number, or what is usual where it says "auto"."""
    return usual if isinstance(value, str) else value


def alike(contexts: Sequence[Tensor]) -> list[Tensor]:
    """Contexts (1, n, D) filled up with rows of zeros to the longest; of most families all are equally long."""
    rows = max(context.shape[1] for context in contexts)
    return [F.pad(context, (0, 0, 0, rows - context.shape[1])) for context in contexts]


@torch.no_grad()
def decode(vae: Any, latents: Tensor, tile: int = 0) -> Image.Image:
    """The image of scaled latents (1, C, h, w), in tiles of `tile` pixels; 0: only where memory is short."""
    parameter = next(vae.parameters())
    form = vaes.latent_format(vae.config)
    scale = form.scale
    pixels = latents.shape[2] * latents.shape[3] * scale**2
    if not tile and _is_short(parameter.device, pixels * DECODE_BYTES_PER_PIXEL.get(parameter.dtype, 5000)):
        tile = TILE
    latents = form.restore(latents)
    with torch.autocast(parameter.device.type, enabled=False), vaes.tiled(vae, tile, scale):
        picture = vaes.decode(vae, latents.to(parameter))[0].float().cpu()
    rounded = (picture * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).numpy())


def _is_short(device: torch.device, needed: int) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds but does not use is free to it as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free < needed


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for all parts of a module meanwhile."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
