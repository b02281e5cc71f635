"""Anima's modules built without weights, by diffusers' and transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

# Positions of the text encoder turn at this base; the class's own is another.
ROPE_THETA = 1e6
# What norms add to a mean square in the model's own code, sd-scripts and web UIs; diffusers adds ten times that to the
# transformer's queries and keys.
EPSILON = 1e-6


def new_part(part: str, config: Mapping[str, Any]) -> nn.Module:
    """A part ("unet", "conditioner", "te1", "vae") with fresh weights."""
    return BUILDERS[part](config)


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    model = CosmosTransformer3DModel(**config)
    # The channel of padding is added by `AnimaBase.denoise`: the class itself would need torchvision for it.
    model.register_to_config(concat_padding_mask=False)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.eps = EPSILON
    return model


def _text_encoder(config: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = Qwen3Model(Qwen3Config(**{"rope_theta": ROPE_THETA, "use_cache": False, **config}))
    return model


def _vae(config: Mapping[str, Any]) -> nn.Module:
    model = AutoencoderKLQwenImage(**config)
    for module in model.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.forward = partial(_of_one_frame, module)
    return model


def _of_one_frame(conv: Any, film: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """A causal convolution of an image (B, C, 1, h, w), before which there is nothing.

    Only the last frame of its kernel meets anything but zeros, so that the others are left out: a third of the work,
    and no copy with two frames of zeros.
    """
    if film.shape[2] > 1 or cache_x is not None or conv.stride[0] > 1:
        found: Tensor = type(conv).forward(conv, film, cache_x)
        return found
    horizontal, _, vertical, *_ = conv._padding
    weight = conv.weight[:, :, -1:]
    return F.conv3d(film, weight, conv.bias, conv.stride, (0, vertical, horizontal), groups=conv.groups)


BUILDERS = {
    "unet": _transformer,
    "conditioner": lambda config: AnimaTextConditioner(**config),
    "te1": _text_encoder,
    "vae": _vae,
}
