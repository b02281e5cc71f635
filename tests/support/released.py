"""The released models of each family without weights."""

from __future__ import annotations

from functools import partial

from torch import nn

from adapter_lab.families import UNETS
from adapter_lab.training.bases.modules import new_text_encoder, new_unet, new_vae, without_weights


def meta_unet(family: str) -> nn.Module:
    """The released UNet of a family without weights, for shape and memory studies."""
    return without_weights(lambda: new_unet(UNETS[family].unet))


def meta_vae(family: str) -> nn.Module:
    """The released VAE of a family without weights."""
    return without_weights(lambda: new_vae(UNETS[family].vae))


def meta_text_encoders(family: str) -> dict[str, nn.Module]:
    """The released text encoders of a family ("te1", "te2") without weights."""
    return {
        part.key: without_weights(partial(new_text_encoder, part.config, part.pooled)) for part in UNETS[family].text
    }
