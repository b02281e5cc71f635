"""Tensor names and shapes of the released single-file checkpoints, and their modules without weights."""

from __future__ import annotations

from functools import cache, partial

from adapter_lab.adapters.standard import standard_shapes
from adapter_lab.families import BASES, UNETS, StableDiffusion
from adapter_lab.training.bases.ldm import ldm_state
from adapter_lab.training.bases.modules import Config, new_text_encoder, new_unet, new_vae, without_weights


def layout_of(family: str, unet: Config, vae: Config, text_encoders: dict[str, Config]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a single-file checkpoint with these configurations (diffusers' and transformers')."""
    tensors = ldm_state(
        family,
        without_weights(lambda: new_unet(unet)).state_dict(),
        without_weights(lambda: new_vae(vae)).state_dict(),
        {
            part.key: without_weights(partial(new_text_encoder, text_encoders[part.key], part.pooled)).state_dict()
            for part in UNETS[family].text
            if part.key in text_encoders
        },
    )
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@cache
def _released(family: str) -> dict[str, tuple[int, ...]]:
    row = BASES[family]
    if not isinstance(row, StableDiffusion):
        return standard_shapes(family)
    shapes = layout_of(row.family, row.unet, row.vae, {part.key: dict(part.config) for part in row.text})
    if row.keeps_schedule:
        shapes["alphas_cumprod"] = (1000,)
    if family == "sd2":
        width = row.text[0].config["hidden_size"]
        shapes["cond_stage_model.model.text_projection"] = (width, width)
    return shapes


def layout(family: str) -> dict[str, tuple[int, ...]]:
    """Every tensor name of a family's released file, with its shape; without a VAE that is a file of its own."""
    return dict(_released(family))
