"""Stable Diffusion 1.x."""

from __future__ import annotations

from adapter_lab.families.row import (
    CLIP_L,
    END,
    OF_SECOND_ENCODER,
    OF_TRANSFORMERS,
    SD_BLOCKS,
    SD_UNET,
    VAE,
    ClipPart,
    LatentFormat,
    StableDiffusion,
    tier,
)

SD15 = StableDiffusion(
    key="sd15",
    title="SD1.5",
    resolution=512,
    resolution_of={},
    preset_resolution=512,
    text=(
        ClipPart(
            key="te1",
            title="text encoder",
            folder="text_encoder",
            adapter="lora_te_",
            checkpoint="cond_stage_model.",
            comfy="text_encoders.clip_l.transformer.",
            open_clip=False,
            pooled=False,
            unused_layers=0,
            pad_token=END,
            config=CLIP_L,
        ),
    ),
    latent=LatentFormat(channels=4, scale=8, factor=0.18215),
    clip_skip=1,
    final_norm=True,
    heads=8,
    sized=False,
    adapter_names="diffusers",
    versions={"epsilon": "sd_v1", "v_prediction": "sd_v1", "flow": "sd_v1"},
    architectures=dict.fromkeys(("epsilon", "v_prediction", "flow"), "stable-diffusion-v1"),
    blocks=SD_BLOCKS,
    marks=("cond_stage_model.transformer.",),
    second=False,
    without=(*OF_SECOND_ENCODER, *OF_TRANSFORMERS),
    keeps_schedule=True,
    probe=None,
    tiers={
        6: tier(2, text=True),
        8: tier(4, text=True),
        12: tier(8, text=True),
        16: tier(8, text=True),
        24: tier(16, text=True),
    },
    unet={**SD_UNET, "cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False},
    vae={**VAE, "scaling_factor": 0.18215},
)
