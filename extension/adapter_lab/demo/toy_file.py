"""The shipped toy checkpoint: one fp16 file in SDXL's layout; its metadata says what shapes cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save

from adapter_lab import files
from adapter_lab.errors import AdapterLabError

from .architecture import UNET, VAE, text_configs
from .scorer import ScorerNet
from .train_base import ToyBase
from .vocabulary import END, START, build_tokenizer

TOY_FILE = Path(__file__).with_name("toy-sdxl.safetensors")
SCORER = "adapter_lab.scorer."
LARGEST = 16_000_000


def architecture(vocab: dict[str, int], scaling_factor: float) -> dict[str, Any]:
    """Configurations by pipeline part, for the `adapter_lab.architecture` metadata."""
    first, second = text_configs(len(vocab), vocab[START], vocab[END])
    return {
        "unet": UNET,
        "vae": {**VAE, "scaling_factor": scaling_factor},
        "text_encoder": first,
        "text_encoder_2": second,
    }


def write_toy_file(path: Path, base: ToyBase, vae: AutoencoderKL, scorer: ScorerNet) -> int:
    """Writes base, VAE and scorer as one fp16 file and returns its bytes. Raises AdapterLabError if over 16 MB."""
    from adapter_lab.training.bases.ldm import ldm_state

    encoders = {"te1": base.te1.state_dict(), "te2": base.te2.state_dict()}
    tensors = ldm_state("sdxl", base.unet.state_dict(), vae.state_dict(), encoders)
    tensors |= {SCORER + name: tensor for name, tensor in scorer.state_dict().items()}
    tensors["v_pred"] = torch.empty(0)  # how SDXL checkpoints by convention say that they predict v
    half = {name: tensor.detach().half().contiguous().clone() for name, tensor in tensors.items()}
    tokenizer = build_tokenizer()
    metadata = {
        "adapter_lab.architecture": json.dumps(architecture(tokenizer["vocab"], float(vae.config.scaling_factor))),
        "adapter_lab.tokenizer": json.dumps(tokenizer, ensure_ascii=False),
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.title": "Adapter Lab toy SDXL",
        "modelspec.license": "AGPL-3.0",
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "128x128",
    }
    content = save(half, metadata=metadata)
    if len(content) > LARGEST:
        raise AdapterLabError(
            f"{path} would have {len(content)} bytes, more than the {LARGEST} the toy may have; make a part smaller."
        )
    files.write_bytes(path, content)
    return len(content)


def open_scorer(path: Path = TOY_FILE) -> ScorerNet:
    """The scorer that is shipped inside the toy checkpoint."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        tensors = {
            name.removeprefix(SCORER): file.get_tensor(name).float() for name in names if name.startswith(SCORER)
        }
    if not tensors:
        raise AdapterLabError(f"{path} has no scorer; make it again with `python -m adapter_lab.demo.make_toy`.")
    net = ScorerNet()
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)
