"""Saving a pipeline's modules as a single-file checkpoint that says of itself what its shapes cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig

from adapter_lab.adapters.layouts import text_encoder_parameters
from adapter_lab.adapters.writing import layout_of, raw_bytes, write_tensors
from adapter_lab.families import FOLDERS, UNETS, of_unet
from adapter_lab.training.bases.architecture import STATED, text_config, unet_config, vae_config
from adapter_lab.training.bases.detect import STATED as STATED_AS
from adapter_lab.training.bases.ldm import ldm_state
from adapter_lab.training.bases.modules import defaults
from adapter_lab.training.bases.single_file import parameter_shapes
from adapter_lab.training.objective.objective import rescale_zero_terminal_snr, scaled_linear_alphas_cumprod


def save_single_file(
    path: str | Path,
    unet: nn.Module,
    vae: nn.Module,
    text_encoders: Mapping[str, nn.Module],
    metadata: Mapping[str, str] | None = None,
    *,
    family: str | None = None,
    dtype: torch.dtype | None = None,
    prediction: str = "epsilon",
    zero_terminal_snr: bool = False,
) -> int:
    """Write diffusers and transformers modules as one LDM checkpoint, atomically; returns the file's size in bytes.

    `text_encoders` maps "te1" and, for SDXL, "te2" to modules; `dtype` None keeps each tensor's. `metadata` may hold
    `adapter_lab.tokenizer` (JSON of "vocab", "merges", "model_max_length"); `adapter_lab.architecture` is added for
    whatever `open_base` could not tell from the shapes, and the community's `v_pred` and `ztsnr` keys where they apply.
    """
    family = family or _family(unet, text_encoders)
    states = {part: encoder.state_dict() for part, encoder in text_encoders.items()}
    tensors = ldm_state(family, unet.state_dict(), vae.state_dict(), states)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    overrides = _overrides(family, {n: tuple(t.shape) for n, t in tensors.items()}, unet, vae, text_encoders)
    if UNETS[family].keeps_schedule:
        abar = scaled_linear_alphas_cumprod()
        tensors["alphas_cumprod"] = rescale_zero_terminal_snr(abar) if zero_terminal_snr else abar
    # ComfyUI, reForge and others read these two empty tensors; a file without them is epsilon on the usual schedule.
    if prediction == "v_prediction":
        tensors["v_pred"] = torch.empty(0)
    if zero_terminal_snr:
        tensors["ztsnr"] = torch.empty(0)
    stated = {"modelspec.prediction_type": STATED_AS[prediction]}
    if overrides:
        stated["adapter_lab.architecture"] = json.dumps(overrides)
    return write_tensors(
        Path(path), layout_of(tensors), {**stated, **(metadata or {})}, lambda key: raw_bytes(tensors[key])
    )


def _family(unet: nn.Module, text_encoders: Mapping[str, nn.Module]) -> str:
    return of_unet(len(text_encoders) > 1, bool(_config(unet).get("use_linear_projection"))).key


def _overrides(
    family: str,
    shapes: dict[str, tuple[int, ...]],
    unet: nn.Module,
    vae: nn.Module,
    text_encoders: Mapping[str, nn.Module],
) -> dict[str, dict[str, Any]]:
    """What the modules' configurations say otherwise than `open_base` would conclude from shapes and family."""
    sources = text_encoder_parameters(shapes)
    given = {"unet": unet, "vae": vae, **{FOLDERS[part]: encoder for part, encoder in text_encoders.items()}}
    concluded = {
        "unet": {**defaults(UNet2DConditionModel), **unet_config(shapes, family)},
        "vae": {**defaults(AutoencoderKL), **vae_config(shapes, family)},
    }
    for part in text_encoders:
        config = text_config(parameter_shapes(sources[part], shapes), family, part)
        concluded[FOLDERS[part]] = {**CLIPTextConfig().to_dict(), **config}
    found = {}
    for section, module in given.items():
        ours, theirs = _config(module), concluded[section]
        stated = {k: ours[k] for k in ours if k in STATED and _plain(ours[k]) != _plain(theirs.get(k))}
        if stated:
            found[section] = stated
    return found


def _config(module: nn.Module) -> dict[str, Any]:
    config: Any = module.config
    return dict(config) if isinstance(config, Mapping) else config.to_dict()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
