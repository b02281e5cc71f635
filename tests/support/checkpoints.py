"""Random-weight base checkpoints in the real layouts, of the released and of tiny sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from adapter_lab.families import UNETS
from adapter_lab.families.row import VAE, block_types
from adapter_lab.training.bases.layout import layout, layout_of

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
START, END = "<|startoftext|>", "<|endoftext|>"

_VAE: dict[str, Any] = {**VAE, "block_out_channels": [16, 16, 32, 32], "layers_per_block": 1, "norm_num_groups": 8}
_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "sample_size": 8,
}


class Layout(dict[str, "tuple[int, ...]"]):
    """Shapes by tensor name, with the safetensors metadata a checkpoint of that layout needs to be loaded."""

    metadata: dict[str, str]


def byte_vocabulary() -> dict[str, int]:
    """A CLIP vocabulary without merges: a token per byte, inside and at the end of a word, and the special ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
    tokens = [*characters, *(character + "</w>" for character in characters), START, END]
    return {token: index for index, token in enumerate(tokens)}


def _text_encoder(width: int, act: str, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "projection_dim": width,
        "vocab_size": len(byte_vocabulary()),
        "max_position_embeddings": 77,
        "hidden_act": act,
        "bos_token_id": len(byte_vocabulary()) - 2,
        "eos_token_id": len(byte_vocabulary()) - 1,
    }


def tiny_configs(family: str) -> dict[str, Any]:
    """Configurations of a tiny "sd15", "sd2" or "sdxl": {"unet": ..., "vae": ..., "te1": ..., "te2": ...}."""
    if family == "sdxl":
        return {
            "unet": {
                **_UNET,
                **block_types([False, True, True]),
                "block_out_channels": [32, 64, 64],
                "transformer_layers_per_block": [1, 1, 2],
                "attention_head_dim": [2, 4, 4],
                "cross_attention_dim": 96,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64 + 6 * 8,
            },
            "vae": {**_VAE, "scaling_factor": 0.13025},
            "te1": _text_encoder(32, "quick_gelu", 3),
            "te2": _text_encoder(64, "gelu", 3),
        }
    return {
        "unet": {
            **_UNET,
            **block_types([True, True, True, False]),
            "block_out_channels": [32, 64, 64, 64],
            "transformer_layers_per_block": [1, 1, 1, 1],
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
            "use_linear_projection": family == "sd2",
        },
        "vae": {**_VAE, "scaling_factor": 0.18215},
        "te1": _text_encoder(32, UNETS[family].text_part("te1").activation, 2 if family == "sd2" else 3),
    }


def tiny_metadata(family: str) -> dict[str, str]:
    """The safetensors metadata that says of a tiny model what its shapes cannot."""
    configs = tiny_configs(family)
    heads = {"num_attention_heads": 4}
    architecture = {
        "unet": {key: configs["unet"][key] for key in ("attention_head_dim", "norm_num_groups", "sample_size")},
        "vae": {"norm_num_groups": 8},
        "text_encoder": heads,
        "text_encoder_2": heads,
    }
    tokenizer = {"vocab": byte_vocabulary(), "merges": [], "model_max_length": 77}
    return {"adapter_lab.architecture": json.dumps(architecture), "adapter_lab.tokenizer": json.dumps(tokenizer)}


def tiny_layout(family: str) -> Layout:
    """Tensor names and shapes of a tiny model of a family, real names, f8 VAE; a step at 64 px takes under 0.2 s.

    Pass it to `write_random_checkpoint`, which also writes its `.metadata`.
    """
    shapes = Layout(_tiny_shapes(family))
    shapes.metadata = tiny_metadata(family)
    return shapes


@cache
def _tiny_shapes(family: str) -> dict[str, tuple[int, ...]]:
    configs = tiny_configs(family)
    text_encoders = {part: configs[part] for part in ("te1", "te2") if part in configs}
    shapes = layout_of(family, configs["unet"], configs["vae"], text_encoders)
    return {**shapes, "alphas_cumprod": (1000,)} if family == "sd15" else shapes


def write_random_checkpoint(
    path: str | Path,
    shapes: str | Mapping[str, tuple[int, ...]],
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a `.safetensors` checkpoint of random weights; returns its path.

    `shapes` is "sd15", "sd2" or "sdxl" (real size), "tiny-sd15" and so on, or shapes by name. Tensors are written one
    after another, so memory stays small. Weights have variance 1/(4 fan-in), biases of norm layers are random too, so
    that activations stay finite in fp16 and no adapter on a bias or norm goes unnoticed.
    """
    if isinstance(shapes, str):
        shapes = tiny_layout(shapes.removeprefix("tiny-")) if shapes.startswith("tiny-") else layout(shapes)
    everything = {**getattr(shapes, "metadata", {}), **(metadata or {})}
    size = torch.empty((), dtype=dtype).element_size()
    header: dict[str, Any] = {"__metadata__": everything} if everything else {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * size
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn((1 << 22) + 12345, generator=generator).to(dtype)
    path = Path(path)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            _random(name, tuple(shape), pool, generator).view(torch.uint8).numpy().tofile(file)
    return path


def _random(name: str, shape: tuple[int, ...], pool: Tensor, generator: torch.Generator) -> Tensor:
    """A flat tensor of `name`'s random values, taken from `pool` at a random place: much faster than drawing them."""
    count = math.prod(shape)
    if name == "alphas_cumprod":
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64) ** 2
        return torch.cumprod(1 - betas, 0).to(pool.dtype)
    start = int(torch.randint(len(pool), (), generator=generator))
    if start + count <= len(pool):
        values = pool[start : start + count]
    else:
        copies = -(-(start + count) // len(pool))
        values = pool.repeat(copies)[start : start + count]
    if (name.endswith("weight") and len(shape) == 1) or name.endswith("gamma"):
        return 1 + 0.1 * values
    if "embedding" in name or name.endswith(("llm_adapter.embed.weight", "embed_tokens.weight")):
        return 0.3 * values
    if len(shape) < 2:
        return 0.05 * values
    return values * (0.5 / math.sqrt(math.prod(shape[1:])))


def tiny_modules(family: str, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """UNet, VAE and text encoders of a tiny model, made by diffusers and transformers alone, all parameters random."""
    configs = tiny_configs(family)
    unet, vae = UNet2DConditionModel(**configs["unet"]), AutoencoderKL(**configs["vae"])
    encoders: dict[str, Any] = {"te1": CLIPTextModel(CLIPTextConfig(**configs["te1"]))}
    if "te2" in configs:
        encoders["te2"] = CLIPTextModelWithProjection(CLIPTextConfig(**configs["te2"]))
    generator = torch.Generator().manual_seed(seed)
    for module in (unet, vae, *encoders.values()):
        module.requires_grad_(False).eval()
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # norms and biases start at 1 and 0, where a lost one would go unnoticed
                parameter.copy_((1 if name.endswith("weight") else 0) + 0.1 * noise)
            else:
                scale = 0.3 if "embedding" in name else 0.5 / math.sqrt(parameter[0].numel())
                parameter.copy_(noise * scale)
    return unet, vae, encoders


def write_diffusers_folder(
    folder: str | Path,
    family: str,
    seed: int = 0,
    *,
    variant: str = "",
    ending: str = ".safetensors",
    dtype: torch.dtype = torch.float32,
    scheduler: Mapping[str, Any] | None = None,
) -> Path:
    """Write the `tiny_modules` of a family as a diffusers pipeline folder; returns its path.

    `variant` "fp16" gives file names such as `model.fp16.safetensors`; `ending` ".bin" gives pickles.
    """
    folder = Path(folder)
    unet, vae, encoders = tiny_modules(family, seed)
    parts = {"unet": unet, "vae": vae, "text_encoder": encoders["te1"]}
    if "te2" in encoders:
        parts["text_encoder_2"] = encoders["te2"]
    for name, module in parts.items():
        (folder / name).mkdir(parents=True)
        config = dict(module.config) if isinstance(module.config, Mapping) else module.config.to_dict()
        (folder / name / "config.json").write_text(json.dumps(config, default=str))
        stem = "model" if name.startswith("text") and ending == ".safetensors" else "diffusion_pytorch_model"
        stem = "pytorch_model" if name.startswith("text") and ending == ".bin" else stem
        state = {key: tensor.to(dtype).contiguous() for key, tensor in module.state_dict().items()}
        file = folder / name / f"{stem}{'.' + variant if variant else ''}{ending}"
        torch.save(state, file) if ending == ".bin" else save_file(state, file)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(byte_vocabulary()))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "scheduler").mkdir()
    schedule = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", **(scheduler or {})}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder
