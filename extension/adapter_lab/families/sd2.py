"""Stable Diffusion 2.x, epsilon (512 px) and v-prediction (768 px)."""

from __future__ import annotations

from adapter_lab.families.row import (
    OF_SECOND_ENCODER,
    OF_TRANSFORMERS,
    OPEN_CLIP_H,
    SD_BLOCKS,
    SD_UNET,
    VAE,
    ClipPart,
    LatentFormat,
    Probe,
    StableDiffusion,
    tier,
)

SD2 = StableDiffusion(
    key="sd2",
    title="SD2",
    resolution=512,
    resolution_of={"v_prediction": 768},
    preset_resolution=768,
    text=(
        ClipPart(
            key="te1",
            title="text encoder",
            folder="text_encoder",
            adapter="lora_te_",
            checkpoint="cond_stage_model.",
            comfy="text_encoders.clip_h.transformer.",
            open_clip=True,
            pooled=False,
            unused_layers=1,
            pad_token="!",
            config=OPEN_CLIP_H,
        ),
    ),
    latent=LatentFormat(channels=4, scale=8, factor=0.18215),
    clip_skip=2,
    final_norm=True,
    heads=0,
    sized=False,
    adapter_names="diffusers",
    versions={"epsilon": "sd_v2_512", "v_prediction": "sd_v2_768_v", "flow": "sd_v2_512"},
    architectures={
        "epsilon": "stable-diffusion-v2-512",
        "v_prediction": "stable-diffusion-v2-768-v",
        "flow": "stable-diffusion-v2-512",
    },
    blocks=SD_BLOCKS,
    marks=("cond_stage_model.model.",),
    second=True,
    without=(*OF_SECOND_ENCODER, *OF_TRANSFORMERS),
    keeps_schedule=True,
    probe=Probe(
        steps={"110000": "v_prediction", "875000": "epsilon", "220000": "epsilon"},
        tensor="model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
        spread=0.09,
    ),
    tiers={
        6: tier(1, text=True),
        8: tier(2, text=True),
        12: tier(4, text=True),
        16: tier(6, text=True),
        24: tier(8, text=True),
    },
    unet={
        **SD_UNET,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    vae={**VAE, "scaling_factor": 0.18215},
)
