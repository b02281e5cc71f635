"""Writing a pipeline's modules as one LDM single-file checkpoint, the layout web UIs load."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adapter_lab.adapters.layouts import UNET
from adapter_lab.families import UNETS, ClipPart
from adapter_lab.training.bases.names import VAE, clip_ldm_name, open_clip_names, unet_ldm_paths, vae_ldm_paths

# OpenCLIP keeps its contrastive temperature, ln(100), in the file; nothing in a diffusion model reads it.
LOGIT_SCALE = 4.6052


def ldm_state(
    family: str,
    unet: Mapping[str, Tensor] | None = None,
    vae: Mapping[str, Tensor] | None = None,
    text_encoders: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a single-file checkpoint from the state dicts of diffusers and transformers modules.

    `text_encoders` maps "te1" and "te2" to state dicts. Works on meta tensors too, which gives the layout's shapes.
    """
    tensors: dict[str, Tensor] = {}
    if unet:
        tensors |= _renamed(unet, UNET, unet_ldm_paths(name.rsplit(".", 1)[0] for name in unet))
    if vae:
        paths = vae_ldm_paths(name.rsplit(".", 1)[0] for name in vae)
        for name, tensor in _renamed(vae, VAE, paths).items():
            # diffusers' mid-block attention is linear, LDM's the same numbers as a 1x1 convolution.
            is_attention = ".mid.attn_1." in name and tensor.ndim == 2
            tensors[name] = tensor[:, :, None, None] if is_attention else tensor
    for part, state in (text_encoders or {}).items():
        row = UNETS[family].text_part(part)
        prefix = row.checkpoint
        if row.open_clip:
            tensors |= {prefix + name: tensor for name, tensor in _open_clip(state, row).items()}
        else:
            # position_ids is a buffer some versions of transformers keep in the state dict; it holds 0 to 76.
            tensors |= {prefix + clip_ldm_name(n): t for n, t in state.items() if not n.endswith("position_ids")}
    return tensors


def _renamed(state: Mapping[str, Tensor], prefix: str, paths: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        module, kind = name.rsplit(".", 1)
        renamed[f"{prefix}{paths[module]}.{kind}"] = tensor
    return renamed


def _open_clip(state: Mapping[str, Tensor], row: ClipPart) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameters in open_clip_names(state).items():
        parts = [state[parameter] for parameter in parameters if parameter]  # what a file lacks, its check names
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        tensors[name] = tensor.T if name == "model.text_projection" else tensor
    some = next(iter(tensors.values()))
    tensors["model.logit_scale"] = torch.full((), LOGIT_SCALE, dtype=some.dtype, device=some.device)
    for _ in range(row.unused_layers):
        tensors |= _unused_last_layer(tensors)
    return tensors


def _unused_last_layer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SD2's files have one layer more than its pipelines run; programs that load them expect it to be there."""
    marker = "model.transformer.resblocks."
    last = max(int(name.removeprefix(marker).split(".")[0]) for name in tensors if name.startswith(marker))
    old, new = f"{marker}{last}.", f"{marker}{last + 1}."
    return {new + name.removeprefix(old): tensor for name, tensor in tensors.items() if name.startswith(old)}
