"""Anima's parts on disk: what each file is by its tensors, and where the others lie beside the transformer's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_cosmos_transformer_checkpoint_to_diffusers,
    convert_wan_vae_to_diffusers,
)

from adapter_lab.adapters.anima import prefix_of, standard_shapes
from adapter_lab.adapters.layouts import Shapes, Source
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases.anima.text import AnimaTokens, tokens_of_folder
from adapter_lab.training.bases.architecture import complete
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.diffusers_folder import component_weights
from adapter_lab.training.bases.scaled import unscaled
from adapter_lab.training.bases.single_file import architecture_metadata
from adapter_lab.training.bases.sources import Weights, open_weights

ROW = TRANSFORMERS["anima"]
CONDITIONER = "llm_adapter."
# A tensor that every file of a kind has; names of text encoders may begin with "model.".
TEXT_MARK, VAE_MARK = "layers.0.self_attn.q_norm.weight", "encoder.conv1.weight"
DIFFUSERS_VAE_MARK = "encoder.conv_in.weight"
# Folders where the parts of a checkpoint lie in web UIs and ComfyUI, from the checkpoint's own.
NEARBY = {
    "text_encoder": (".", "../text_encoder", "../text_encoders", "../../text_encoder", "../../text_encoders"),
    "vae": (".", "../VAE", "../vae", "../../VAE", "../../vae"),
}
# What the files are called that people download, first of several.
NAMES = {
    "text_encoder": re.compile(r"qwen.?3.*0?[._-]?6b", re.I),
    "vae": re.compile(r"qwen.?image.*vae|wan.*vae", re.I),
}
MISSING = {
    "text_encoder": "text encoder (Qwen3 0.6B, as a rule qwen_3_06b_base.safetensors); put it into the same folder "
    "or name it in base.text_encoder",
    "vae": "VAE (Qwen-Image's, as a rule qwen_image_vae.safetensors); put it into the same folder or name it in "
    "base.vae",
}


def transformer_parts(weights: Weights) -> dict[str, Component]:
    """The transformer ("unet") and "conditioner" of a file."""
    shapes = weights.shapes
    start = prefix_of(shapes) or ""
    own = {key.removeprefix(start): key for key in shapes if key.startswith(start)}
    of_conditioner = {name.removeprefix(CONDITIONER): key for name, key in own.items() if name.startswith(CONDITIONER)}
    rest = {name: key for name, key in own.items() if not name.startswith(CONDITIONER)}
    renamed: dict[str, str] = convert_cosmos_transformer_checkpoint_to_diffusers(dict(rest))
    with complete(weights.path, "unet"):
        transformer = transformer_config({name: tuple(shapes[key]) for name, key in renamed.items()})
    with complete(weights.path, "conditioner"):
        conditioner = conditioner_config({name: tuple(shapes[key]) for name, key in of_conditioner.items()})
    return {
        "unet": Component(transformer, weights, _sources(renamed)),
        "conditioner": Component(conditioner, weights, _sources(of_conditioner)),
    }


def stated_side(weights: Weights) -> int:
    """Side in pixels of the square that the file says it was trained on; 0: it does not say."""
    latents = architecture_metadata(weights).get("transformer", {}).get("sample_size")
    return latents * ROW.latent.scale if isinstance(latents, int) else 0


def text_part(weights: Weights, path: Path) -> Component:
    """The text encoder in a file; raises FileFormatError where it is another model."""
    shapes = weights.shapes
    start = next((start for start in ("", "model.") if f"{start}{TEXT_MARK}" in shapes), None)
    if start is None:
        raise FileFormatError(f"{path} is no Qwen3 text encoder; give base.text_encoder {MISSING['text_encoder']}.")
    names = {key.removeprefix(start): key for key in shapes if key.startswith(start) and "lm_head" not in key}
    with complete(path, "te1"):
        config = text_config({name: tuple(shapes[key]) for name, key in names.items()})
    return Component(config, weights, _sources(names))


def vae_part(weights: Weights, path: Path) -> Component:
    """The VAE in a file, with Wan's names or diffusers'; raises FileFormatError where it is another model."""
    shapes = weights.shapes
    if VAE_MARK in shapes:
        names: dict[str, str] = convert_wan_vae_to_diffusers({key: key for key in shapes})
    elif DIFFUSERS_VAE_MARK in shapes and len(shapes[DIFFUSERS_VAE_MARK]) == 5:
        names = {key: key for key in shapes}
    else:
        raise FileFormatError(f"{path} is no VAE of Anima; give base.vae the {MISSING['vae']}.")
    with complete(path, "vae"):
        config = vae_config({name: tuple(shapes[key]) for name, key in names.items()})
    return Component({**config, **architecture_metadata(weights).get("vae", {})}, weights, _sources(names))


def _sources(names: Mapping[str, str]) -> dict[str, Source]:
    return {name: Source(key) for name, key in names.items()}


def open_folder(path: Path) -> tuple[dict[str, Component], dict[str, tuple[int, ...]], AnimaTokens | None]:
    """The parts of a diffusers folder, shapes by the names of Anima's own files, and the tokenizers that are in it."""
    configs = {"unet": transformer_config, "conditioner": conditioner_config, "te1": text_config, "vae": vae_config}
    parts: dict[str, Component] = {}
    for part, folder in {
        "unet": "transformer",
        "vae": "vae",
        **{entry.key: entry.folder for entry in ROW.text},
    }.items():
        if not (path / folder).is_dir():
            continue
        weights = component_weights(path / folder)
        names = {key.removeprefix("model.") if part == "te1" else key: key for key in weights.shapes}
        with complete(path / folder, part):
            config = configs[part]({name: tuple(weights.shapes[key]) for name, key in names.items()})
        parts[part] = Component(config, weights, _sources(names))
    blocks: int = parts["unet"].config["num_layers"]
    own = {key: key for key in standard_shapes(ROW, blocks) if not key.startswith((CONDITIONER, "model."))}
    renamed: dict[str, str] = convert_cosmos_transformer_checkpoint_to_diffusers(own)
    shapes = {renamed[name]: shape for name, shape in _shapes(parts["unet"]).items() if name in renamed}
    shapes |= {f"{CONDITIONER}{name}": shape for name, shape in _shapes(parts["conditioner"]).items()}
    shapes |= {f"model.{name}": shape for name, shape in (_shapes(parts["te1"]) if "te1" in parts else {}).items()}
    return parts, shapes, tokens_of_folder(path)


def _shapes(part: Component) -> dict[str, tuple[int, ...]]:
    return {name: tuple(part.weights.shapes[source.key]) for name, source in part.sources.items()}


# Configurations from shapes, by diffusers' and transformers' names


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of CosmosTransformer3DModel."""
    width, patched = shapes["patch_embed.proj.weight"]
    blocks = _count(shapes, r"transformer_blocks\.(\d+)\.")
    head = shapes["transformer_blocks.0.attn1.norm_q.weight"][0]
    return {
        **ROW.transformer,
        "in_channels": patched // 4 - 1,  # a patch is 2 x 2, and one channel says what is padding
        "out_channels": shapes["proj_out.weight"][0] // 4,
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "num_layers": blocks,
        "mlp_ratio": shapes["transformer_blocks.0.ff.net.0.proj.weight"][0] / width,
        "text_embed_dim": shapes["transformer_blocks.0.attn2.to_k.weight"][1],
        "adaln_lora_dim": shapes["transformer_blocks.0.norm1.linear_1.weight"][0],
    }


def conditioner_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of AnimaTextConditioner."""
    tokens, out = shapes["embed.weight"]
    width = shapes["blocks.0.self_attn.q_proj.weight"][0]
    return {
        "source_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "target_dim": out,
        "model_dim": width,
        "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        "num_attention_heads": width // shapes["blocks.0.self_attn.q_norm.weight"][0],
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] / width,
        "target_vocab_size": tokens,
    }


def text_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of transformers' Qwen3Model."""
    tokens, width = shapes["embed_tokens.weight"]
    head = shapes["layers.0.self_attn.q_norm.weight"][0]
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": _count(shapes, r"layers\.(\d+)\."),
        "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // head,
        "head_dim": head,
        "rms_norm_eps": 1e-6,
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of AutoencoderKLQwenImage: its levels are those of the released one, its width the file's."""
    return {
        **ROW.configs["vae"],
        "base_dim": shapes["encoder.conv_in.weight"][0],
        "z_dim": shapes["post_quant_conv.weight"][0],
    }


def _count(names: Shapes, pattern: str) -> int:
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)


# Finding the other files


def find(kind: str, checkpoint: Path, named: str, fits: Callable[[Path], bool]) -> tuple[Path, str]:
    """The file of a part and how it was found: the one the settings name, else one beside the checkpoint that fits.

    `kind`: "text_encoder" or "vae". Raises ConfigError for a named one that is not there, FileFormatError where none is
    found, with what to get.
    """
    if named:
        path = Path(named).expanduser()
        if not path.exists():
            raise ConfigError(f"base.{kind} is {path}, which is not there; correct it or leave it empty.")
        return path, f"as base.{kind} says"
    seen = [path for path in _nearby(kind, checkpoint) if fits(path)]
    if not seen:
        raise FileFormatError(f"{checkpoint} needs a {MISSING[kind]}.")
    chosen = min(seen, key=lambda path: not NAMES[kind].search(path.name))
    others = f" ({len(seen)} fit; base.{kind} names another)" if len(seen) > 1 else ""
    return chosen, f"found beside the checkpoint{others}"


def _nearby(kind: str, checkpoint: Path) -> Iterator[Path]:
    for folder in NEARBY[kind]:
        place = (checkpoint.parent / folder).resolve()
        if place.is_dir():
            yield from sorted(path for path in place.glob("*.safetensors") if path != checkpoint)


def has_tensor(path: Path, name: str, shape: tuple[int | None, ...]) -> bool:
    """Whether a file's header has a tensor of this shape (None: any size), under its name or behind "model."."""
    try:
        shapes = TensorFile.open(path).shapes
    except (FileFormatError, OSError):
        return False
    found = shapes.get(name) or shapes.get(f"model.{name}")
    return found is not None and len(found) == len(shape) and all(w in (None, h) for w, h in zip(shape, found))


def open_part(path: Path) -> Weights:
    """The weights of one file, in values even where it stores them in 8 bits with scales."""
    return unscaled(open_weights(path))
