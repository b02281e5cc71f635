"""What a checkpoint's tensor shapes cannot tell, and the widths of the released models: one row per family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family of base models. `unet` and `vae` are diffusers configurations, `text_encoders` transformers ones."""

    name: str
    title: str
    resolution: int
    clip_skip: int  # hidden state the UNet reads, counted from the end as hosts do
    final_norm: bool  # whether the text encoder's final LayerNorm is applied to it
    heads: int  # attention heads of the UNet; 0: one per 64 channels
    scaling_factor: float  # of the VAE's latents
    activations: dict[str, str]
    pad_tokens: dict[str, str]
    architecture: str  # modelspec.architecture of the base
    unet: dict[str, Any] = field(repr=False)
    vae: dict[str, Any] = field(repr=False)
    text_encoders: dict[str, dict[str, Any]] = field(repr=False)


END = "<|endoftext|>"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")


def block_types(attentions: list[bool]) -> dict[str, list[str]]:
    """diffusers' block types of a UNet whose level i has transformers where `attentions[i]`."""
    down = [CROSS[0] if here else PLAIN[0] for here in attentions]
    up = [CROSS[1] if here else PLAIN[1] for here in reversed(attentions)]
    return {"down_block_types": down, "up_block_types": up}


VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
OPEN_CLIP_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24 in the file; the last one is never run
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
OPEN_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
SD_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 1, 1, 1],
    **block_types([True, True, True, False]),
}

FAMILIES: dict[str, Family] = {
    "sd15": Family(
        name="sd15",
        title="SD1.5",
        resolution=512,
        clip_skip=1,
        final_norm=True,
        heads=8,
        scaling_factor=0.18215,
        activations={"te1": "quick_gelu"},
        pad_tokens={"te1": END},
        architecture="stable-diffusion-v1",
        unet={**SD_UNET, "cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False},
        vae={**VAE, "scaling_factor": 0.18215},
        text_encoders={"te1": CLIP_L},
    ),
    "sd2": Family(
        name="sd2",
        title="SD2",
        resolution=512,  # 768 for the v-prediction models
        clip_skip=2,
        final_norm=True,
        heads=0,
        scaling_factor=0.18215,
        activations={"te1": "gelu"},
        pad_tokens={"te1": "!"},
        architecture="stable-diffusion-v2-512",
        unet={
            **SD_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        vae={**VAE, "scaling_factor": 0.18215},
        text_encoders={"te1": OPEN_CLIP_H},
    ),
    "sdxl": Family(
        name="sdxl",
        title="SDXL",
        resolution=1024,
        clip_skip=2,
        final_norm=False,
        heads=0,
        scaling_factor=0.13025,
        activations={"te1": "quick_gelu", "te2": "gelu"},
        pad_tokens={"te1": END, "te2": "!"},
        architecture="stable-diffusion-xl-v1-base",
        unet={
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            **block_types([False, True, True]),
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae={**VAE, "scaling_factor": 0.13025, "force_upcast": True},
        text_encoders={"te1": CLIP_L, "te2": OPEN_CLIP_G},
    ),
}

# Smaller models distilled from SDXL, by what tells their UNet from SDXL's and from each other's.
DISTILLED: dict[str, dict[str, Any]] = {
    "SSD-1B": {
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "Segmind Vega": {"transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"},
    "KOALA": {"layers_per_block": 1},
}


def distilled_name(family: str, unet: Mapping[str, Any]) -> str:
    """What a smaller model of a family is called, by its UNet's configuration; "" for all others."""
    if family != "sdxl":
        return ""
    rows = DISTILLED.items()
    return next((name for name, row in rows if all(unet.get(key) == value for key, value in row.items())), "")
