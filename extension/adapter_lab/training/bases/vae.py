"""A VAE's pixels and latents, whether it is of images (AutoencoderKL) or of films with one frame (Qwen-Image's)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adapter_lab.families import LatentFormat
from adapter_lab.families.row import ChannelLatents
from adapter_lab.training.device.transfer import to_device


def has_frames(config: Mapping[str, Any]) -> bool:
    """Whether a VAE of this diffusers configuration takes films, (B, C, frames, h, w)."""
    return "z_dim" in config


def latent_format(config: Mapping[str, Any], family: LatentFormat | None = None) -> LatentFormat:
    """The latents of a VAE by its diffusers configuration; `family`: of whose denoiser the patches are."""
    patch = family.patch if family else 1
    if has_frames(config):
        return ChannelLatents(
            channels=config["z_dim"],
            scale=2 ** (len(config["dim_mult"]) - 1),
            patch=patch,
            mean=tuple(config["latents_mean"]),
            std=tuple(config["latents_std"]),
        )
    return LatentFormat(
        channels=config["latent_channels"],
        scale=2 ** (len(config["block_out_channels"]) - 1),
        factor=config["scaling_factor"],
        shift=config.get("shift_factor") or 0.0,
        patch=patch,
    )


@torch.no_grad()
def encode(vae: Any, device: torch.device, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, C, h, w) of the latents of pixels (B, 3, H, W) in [-1, 1].

    Of a VAE of films everybody takes the mean, so that its deviation is 0.
    """
    pixels = to_device(pixels, device, vae.dtype)
    if has_frames(vae.config):
        # Of one frame nothing has to be kept for the next, as the class's own `encode` does of every layer.
        mean = vae.quant_conv(vae.encoder(pixels[:, :, None])).chunk(2, dim=1)[0][:, :, 0].float()
        return mean, torch.zeros_like(mean)
    posterior = vae.encode(pixels).latent_dist
    return posterior.mean.float(), posterior.std.float()


def decode(vae: Any, z: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) of the VAE's latents (B, C, h, w), not scaled."""
    if has_frames(vae.config):
        film = z[:, :, None]
        seen: Tensor = vae.decode(film).sample if vae.use_tiling else vae.decoder(vae.post_quant_conv(film))
        return seen[:, :, 0].clamp(-1, 1)
    found: Tensor = vae.decode(z).sample
    return found


@contextmanager
def tiled(vae: Any, tile: int, scale: int) -> Iterator[None]:
    """Decoding in tiles of `tile` pixels meanwhile; 0: in one piece."""
    if not tile:
        yield
        return
    before = {name: getattr(vae, name) for name in ("use_tiling", *_tile_sizes(vae, tile, scale))}
    for name, value in {"use_tiling": True, **_tile_sizes(vae, tile, scale)}.items():
        setattr(vae, name, value)
    try:
        yield
    finally:  # a VAE that stays in memory encodes the images of the next steps, and tiles would change their latents
        for name, value in before.items():
            setattr(vae, name, value)


def _tile_sizes(vae: Any, tile: int, scale: int) -> dict[str, int]:
    if has_frames(vae.config):
        sides = dict.fromkeys(("tile_sample_min_height", "tile_sample_min_width"), tile)
        return sides | dict.fromkeys(("tile_sample_stride_height", "tile_sample_stride_width"), tile * 3 // 4)
    return {"tile_sample_min_size": tile, "tile_latent_min_size": max(1, tile // scale)}
