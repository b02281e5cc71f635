"""The shipped toy Anima: transformer, text encoder and VAE, fp16, in three files as a released one has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_cosmos_transformer_checkpoint_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from safetensors.torch import load_file, save
from torch import Tensor

from adapter_lab import files
from adapter_lab.adapters.anima import standard_shapes
from adapter_lab.errors import AdapterLabError
from adapter_lab.families.anima import LATENT_MEAN, LATENT_STD
from adapter_lab.training.bases.anima.text import OWN

from .anima_parts import LATENTS, ROW, TRANSFORMER, ToyAnima, tokens_metadata
from .bases import ANIMA_FILE, TEXT_FILE, VAE_FILE
from .toy_file import LARGEST

CONDITIONER = "llm_adapter."


def write_toy_anima(folder: Path, work: Path, base: ToyAnima, vae: Any) -> int:
    """Writes the three files into `folder`; returns their bytes. Raises AdapterLabError if they are over 16 MB."""
    measured = load_file(work / "latents.safetensors")
    transformer = {f"net.{name}": tensor for name, tensor in _transformer(base).items()}
    metadata = {
        "modelspec.architecture": "anima",
        "modelspec.title": "Adapter Lab toy Anima",
        "modelspec.license": "AGPL-3.0",
        "modelspec.resolution": f"{8 * LATENTS}x{8 * LATENTS}",
        OWN: tokens_metadata(base.tokens),
        "adapter_lab.architecture": json.dumps({"transformer": {"sample_size": LATENTS}}),
    }
    text = {f"model.{name}": tensor for name, tensor in base.te1.state_dict().items()}
    contents = {
        ANIMA_FILE.name: save(_half(transformer), metadata=metadata),
        TEXT_FILE: save(_half(text)),
        VAE_FILE: save(_half(_vae(standardised(vae, measured["mean"], measured["std"])))),
    }
    size = sum(map(len, contents.values()))
    if size > LARGEST:
        raise AdapterLabError(
            f"{folder} would have {size} bytes, more than the {LARGEST} the toy may have; make a part smaller."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        files.write_bytes(folder / name, content)
    return size


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().half().contiguous().clone() for name, tensor in tensors.items()}


def _transformer(base: ToyAnima) -> dict[str, Tensor]:
    """Transformer and conditioner by the names in Anima's own files."""
    state = base.unet.state_dict()
    blocks = TRANSFORMER["num_layers"]
    own = [name for name in standard_shapes(ROW, blocks) if not name.startswith((CONDITIONER, "model."))]
    to_own = convert_cosmos_transformer_checkpoint_to_diffusers({name: name for name in own})
    found = {to_own[name]: tensor for name, tensor in state.items()}
    return found | {f"{CONDITIONER}{name}": tensor for name, tensor in base.conditioner.state_dict().items()}


def _vae(vae: Any) -> dict[str, Tensor]:
    """The VAE by Wan's names."""
    to_own = convert_wan_vae_to_diffusers({name: name for name in _wan_names()})
    return {to_own[name]: tensor for name, tensor in vae.state_dict().items()}


def _wan_names() -> Iterator[str]:
    """Every name that a tensor of a VAE may have in Wan's files, and more: what is none is not looked up."""
    kinds = ("weight", "bias", "gamma")
    for start in ("conv1", "conv2", "encoder.conv1", "decoder.conv1"):
        yield from (f"{start}.{kind}" for kind in kinds)
    modules = (*(f"residual.{number}" for number in (0, 2, 3, 6)), "norm", "to_qkv", "proj")
    modules += ("resample.1", "shortcut", "time_conv")
    places = [f"{part}.middle.{number}" for part in ("encoder", "decoder") for number in range(3)]
    places += [f"encoder.downsamples.{number}" for number in range(11)]
    places += [f"decoder.upsamples.{number}" for number in range(15)]
    yield from (f"{place}.{module}.{kind}" for place in places for module in modules for kind in kinds)
    heads = [f"{part}.head.{number}" for part in ("encoder", "decoder") for number in (0, 2)]
    yield from (f"{head}.{kind}" for head in heads for kind in kinds)


@torch.no_grad()
def standardised(vae: Any, mean: Tensor, std: Tensor) -> Any:
    """The same VAE with latents of the mean and deviation that every Anima expects, measured as `mean` and `std`."""
    factor = torch.tensor(LATENT_STD) / std
    shift = torch.tensor(LATENT_MEAN) - factor * mean
    last, first, channels = vae.quant_conv, vae.post_quant_conv, len(std)
    last.weight[:channels].mul_(factor.view(-1, 1, 1, 1, 1))
    last.bias[:channels].mul_(factor).add_(shift)
    last.bias[channels:].add_(2 * factor.log())
    first.weight.div_(factor.view(1, -1, 1, 1, 1))
    first.bias.sub_((first.weight * shift.view(1, -1, 1, 1, 1)).sum((1, 2, 3, 4)))
    return vae
