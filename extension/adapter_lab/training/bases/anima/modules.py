"""Anima's modules built without weights, by diffusers' and transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from torch import nn
from transformers import Qwen3Config, Qwen3Model

# Positions of the text encoder turn at this base; the class's own is another.
ROPE_THETA = 1e6


def new_part(part: str, config: Mapping[str, Any]) -> nn.Module:
    """A part ("unet", "conditioner", "te1", "vae") with fresh weights."""
    return BUILDERS[part](config)


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    model = CosmosTransformer3DModel(**config)
    # The channel of padding is added by `AnimaBase.denoise`: the class itself would need torchvision for it.
    model.register_to_config(concat_padding_mask=False)
    return model


def _text_encoder(config: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = Qwen3Model(Qwen3Config(**{"rope_theta": ROPE_THETA, "use_cache": False, **config}))
    return model


BUILDERS = {
    "unet": _transformer,
    "conditioner": lambda config: AnimaTextConditioner(**config),
    "te1": _text_encoder,
    "vae": lambda config: AutoencoderKLQwenImage(**config),
}
