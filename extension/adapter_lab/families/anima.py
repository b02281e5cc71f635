"""Anima: Cosmos Predict2's transformer with Qwen3 as text encoder and a text conditioner of its own."""

from __future__ import annotations

from adapter_lab.families.row import OF_SECOND_ENCODER, OF_UNETS, ChannelLatents, DiffusionTransformer, TextPart, tier

# The VAE of Wan 2.1, as Qwen-Image has it: mean and standard deviation of each channel are of its class.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)

ANIMA = DiffusionTransformer(
    key="anima",
    title="Anima",
    resolution=1024,
    resolution_of={},
    preset_resolution=1024,
    text=(
        TextPart(
            key="te1",
            title="text encoder",
            folder="text_encoder",
            adapter="lora_te_",
            checkpoint="model.",
            comfy="text_encoders.qwen3_06b.model.",
            switch="train_te",
            config={
                "vocab_size": 151936,
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "rms_norm_eps": 1e-6,
            },
        ),
        TextPart(
            key="conditioner",
            title="text conditioner",
            folder="text_conditioner",
            adapter="lora_unet_llm_adapter_",
            checkpoint="llm_adapter.",
            comfy="diffusion_model.llm_adapter.",
            switch="",
            config={
                "source_dim": 1024,
                "target_dim": 1024,
                "model_dim": 1024,
                "num_layers": 6,
                "num_attention_heads": 16,
                "mlp_ratio": 4.0,
                "target_vocab_size": 32128,
            },
        ),
    ),
    latent=ChannelLatents(channels=16, scale=8, patch=2, mean=LATENT_MEAN, std=LATENT_STD),
    times="logit-normal",
    shift=3.0,
    guidance=4.0,
    versions={"flow": "anima"},
    architectures={"flow": "anima"},
    blocks=("CosmosTransformerBlock", "AnimaTextConditionerBlock", "Qwen3DecoderLayer"),
    second=False,
    without=(*OF_SECOND_ENCODER, *OF_UNETS),
    tiers={
        6: tier(1, int8=True),
        8: tier(1),
        12: tier(4),
        16: tier(6),
        24: tier(12),
    },
    context=512,
    transformer={
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 16,
        "attention_head_dim": 128,
        "num_layers": 28,
        "mlp_ratio": 4.0,
        "text_embed_dim": 1024,
        "adaln_lora_dim": 256,
        # The table of positions is the same for every size; this one reaches to sides of 4096 px.
        "max_size": (128, 512, 512),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 4.0, 4.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    },
    vae={"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2},
)
