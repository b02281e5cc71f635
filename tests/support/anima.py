"""A tiny Anima of random weights in the files and names that the released ones have."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from adapter_lab.adapters.anima import standard_shapes
from adapter_lab.families import TRANSFORMERS
from adapter_lab.families.row import DiffusionTransformer
from adapter_lab.training.bases.modules import without_weights
from tests.support.checkpoints import write_random_checkpoint

WORDS = ("a", "person", "red", "blue", "with", "hat", "picture", "of", "tok", "one", "two", ",", ".")
WIDTH = 32  # of the text encoder and conditioner


def tokenizer(special: tuple[str, ...], unknown: str) -> Tokenizer:
    """A tokenizer of whole words, with these special tokens first."""
    words = {word: index for index, word in enumerate((*special, *WORDS))}
    made = Tokenizer(models.WordLevel(words, unk_token=unknown))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    return made


@cache
def tokenizers() -> dict[str, Any]:
    """Both tokenizers, as `adapter_lab.tokenizers` has them in a checkpoint's metadata."""
    qwen3, t5 = tokenizer(("<|endoftext|>", "<any>"), "<any>"), tokenizer(("<pad>", "</s>", "<unk>"), "<unk>")
    return {"qwen3": json.loads(qwen3.to_str()), "t5": json.loads(t5.to_str())}


def tiny_row(blocks: int = 2) -> DiffusionTransformer:
    """The family's row with tiny configurations."""
    row = TRANSFORMERS["anima"]
    text, conditioner = row.text
    small_text = {
        "vocab_size": 16, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    small = {
        "source_dim": WIDTH, "target_dim": WIDTH, "model_dim": WIDTH, "num_layers": 2, "num_attention_heads": 2,
        "target_vocab_size": 24,
    }  # fmt: skip
    return replace(
        row,
        text=(
            replace(text, config={**text.config, **small_text}),
            replace(conditioner, config={**conditioner.config, **small}),
        ),
        transformer={
            **row.transformer, "num_attention_heads": 2, "attention_head_dim": 24, "num_layers": blocks,
            "text_embed_dim": WIDTH, "adaln_lora_dim": 8,
        },
    )  # fmt: skip


RELEASED = json.loads((Path(__file__).parent.parent / "data/layouts/anima.json").read_text())


@cache
def vae_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of a VAE 8 channels wide, by the names in the released file."""
    module = without_weights(lambda: AutoencoderKLQwenImage(base_dim=8))
    own = convert_wan_vae_to_diffusers({name: name for name in RELEASED["vae"]})
    return {own[name]: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def write_anima(
    folder: Path, blocks: int = 2, start: str = "net.", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write transformer, text encoder and VAE of a tiny Anima into a folder; returns the transformer's file.

    `start`: how the names of the transformer's tensors begin.
    """
    shapes = standard_shapes(tiny_row(blocks))
    text = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    transformer = {f"{start}{name}": shape for name, shape in shapes.items() if name not in text}
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"transformer": {"sample_size": 8}}
    metadata = {
        "adapter_lab.tokenizers": json.dumps(tokenizers()),
        "adapter_lab.architecture": json.dumps(stated),
    }
    path = write_random_checkpoint(folder / "anima-tiny.safetensors", transformer, dtype, seed, metadata)
    write_random_checkpoint(folder / "qwen_3_06b_base.safetensors", text, dtype, seed + 1)
    write_random_checkpoint(folder / "qwen_image_vae.safetensors", vae_shapes(), dtype, seed + 2)
    return path
