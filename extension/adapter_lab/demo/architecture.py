"""The toy base's architecture: SDXL's block types and layout, small widths. Needs diffusers and transformers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CONTEXT = 77
LATENT_SIZE = 16
TIME_ID_WIDTH = 16
TIME_IDS = (128.0, 128.0, 0.0, 0.0, 128.0, 128.0)  # original size, crop, target size
HIDDEN_1, HIDDEN_2 = 64, 96

VAE: dict[str, Any] = {
    "block_out_channels": [16, 32, 48, 64],
    "layers_per_block": 2,
    "norm_num_groups": 4,  # as many groups as channels would be instance norm, which forgets flat colours
    "latent_channels": 4,
    "sample_size": 128,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "force_upcast": False,
}
UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "block_out_channels": [32, 96, 96],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [1, 3, 3],  # heads per level, as in SDXL's own configuration
    "cross_attention_dim": HIDDEN_1 + HIDDEN_2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_ID_WIDTH,
    "projection_class_embeddings_input_dim": HIDDEN_2 + 6 * TIME_ID_WIDTH,
    "norm_num_groups": 8,
    "in_channels": 4,
    "out_channels": 4,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def has_bf16() -> bool:
    """Whether the CPU has instructions for bf16; without them it would be 15 times slower."""
    supported = torch.cpu.get_capabilities()
    return any(supported.get(name) for name in ("avx512_bf16", "amx_bf16"))


def autocast() -> torch.autocast:
    """bf16 for the toy's training where the CPU has instructions for it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16())


def text_config(hidden: int, act: str, vocab_size: int, bos: int, eos: int, pad: int) -> dict[str, Any]:
    """The CLIPTextConfig fields of one toy text encoder."""
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 4,
        "num_hidden_layers": 3,
        "num_attention_heads": hidden // 16,
        "max_position_embeddings": CONTEXT,
        "projection_dim": hidden,
        "hidden_act": act,
        "vocab_size": vocab_size,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }


def text_configs(vocab_size: int, bos: int, eos: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both encoders' fields; as in SDXL the first pads with the end token, the second with token 0."""
    return (
        text_config(HIDDEN_1, "quick_gelu", vocab_size, bos, eos, eos),
        text_config(HIDDEN_2, "gelu", vocab_size, bos, eos, 0),
    )


def new_vae() -> AutoencoderKL:
    """An untrained toy VAE: 128 x 128 pixels to 4 x 16 x 16 latents.

    Residual branches start at zero and convolutions keep variance, so that colour finds its way through at once; the
    posterior starts with little noise, or the decoder would first learn to ignore its input.
    """
    vae = AutoencoderKL(**VAE)
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith((".conv2", ".to_out.0")):
            nn.init.zeros_(module.weight)
    vae.quant_conv.bias.data[VAE["latent_channels"] :] = -6.0
    return vae


def new_unet() -> UNet2DConditionModel:
    """An untrained toy UNet."""
    return UNet2DConditionModel(**UNET)


def new_text_encoders(vocab_size: int, bos: int, eos: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Untrained text encoders; token embeddings start at std 0.3: from 0.02 small encoders take too long to spread."""
    first, second = text_configs(vocab_size, bos, eos)
    encoders = CLIPTextModel(CLIPTextConfig(**first)), CLIPTextModelWithProjection(CLIPTextConfig(**second))
    for encoder in encoders:
        encoder.get_input_embeddings().weight.data.normal_(0.0, 0.3)
    return encoders
