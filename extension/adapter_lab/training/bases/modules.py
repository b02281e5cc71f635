"""Modules of a pipeline built without weights: from a configuration, on torch's meta device or in FakeTensorMode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Config = Mapping[str, Any]


def new_unet(config: Config) -> UNet2DConditionModel:
    """A UNet with fresh weights; keys of `config` that this diffusers does not know are left out."""
    return UNet2DConditionModel(**_known(UNet2DConditionModel, config))


def new_vae(config: Config) -> AutoencoderKL:
    """A VAE with fresh weights; keys of `config` that this diffusers does not know are left out."""
    return AutoencoderKL(**_known(AutoencoderKL, config))


def new_text_encoder(config: Config, pooled: bool) -> nn.Module:
    """A CLIP text encoder with fresh weights; `pooled`: with the projection of its end token."""
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    # transformers warns of its usual ids where a vocabulary is smaller; a base that is run states its own.
    last = int(config.get("vocab_size", 49408)) - 1
    model: nn.Module = kind(CLIPTextConfig(**{"bos_token_id": last - 1, "eos_token_id": last, **config}))
    return model


def without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """The module `build` makes, its parameters on the meta device; buffers are computed, since no file holds them."""
    with init_empty_weights(include_buffers=False):
        return build().requires_grad_(False).eval()


def defaults(model: type) -> dict[str, Any]:
    """The configuration of a diffusers model that is given none."""
    parameters = inspect.signature(model.__init__).parameters  # type: ignore[misc]
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def _known(model: type, config: Config) -> dict[str, Any]:
    names = defaults(model)
    return {key: value for key, value in config.items() if key in names}
