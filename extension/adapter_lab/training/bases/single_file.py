"""Bases in one file: which components it holds and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_lab import jsonio
from adapter_lab.adapters.layouts import UNET, Shapes, Source, family_of, text_encoder_parameters, unet_module_paths
from adapter_lab.errors import FileFormatError
from adapter_lab.families import FOLDERS, UNETS
from adapter_lab.training.bases.architecture import (
    complete,
    overridden,
    text_config,
    unet_config,
    vae_config,
)
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.names import VAE, vae_module_paths
from adapter_lab.training.bases.sources import Weights, open_weights
from adapter_lab.training.bases.tokenizer import (
    ClipTokenizer,
    clip_tokenizer,
    tokenizer_from_folder,
    tokenizer_from_metadata,
)

ADAPTER_MARKS = ("lora_down", "lora_up", "lora_A", "lora_B", "hada_w1", "lokr_w", "oft_blocks", "lora_unet_", "lora_te")
NOT_BASES = {
    "encoder.conv_in.weight": "a VAE; it goes into base.vae",
    "first_stage_model.encoder.conv_in.weight": "a VAE; it goes into base.vae",
    "down_blocks.0.resnets.0.conv1.weight": "one part of a diffusers folder; choose the folder with model_index.json",
    "text_model.embeddings.token_embedding.weight": "a text encoder; choose a whole checkpoint",
    "emb_params": "a textual inversion embedding; choose a whole checkpoint",
    "control_model.input_blocks.0.0.weight": "a ControlNet; choose an ordinary checkpoint",
}


@dataclass(frozen=True)
class Opened:
    """What a single file or a folder holds, before anything is loaded; `shapes` by LDM name."""

    path: Path
    family: str
    shapes: dict[str, tuple[int, ...]]
    components: dict[str, Component]
    metadata: Mapping[str, str]
    scheduler: dict[str, Any] | None = None  # scheduler_config.json of a folder

    def tokenizer(self) -> ClipTokenizer:
        """The tokenizer the base was trained with: its own if it brings one, else CLIP's."""
        own = tokenizer_from_folder(self.path / "tokenizer") if self.path.is_dir() else None
        stated = self.metadata.get("adapter_lab.tokenizer")
        return own or (tokenizer_from_metadata(stated, self.path) if stated else clip_tokenizer())


def open_single_file(path: Path) -> Opened:
    """Read the header of a checkpoint; raises FileFormatError with a sentence if it is no base that can be trained."""
    weights = open_weights(path)
    shapes = weights.shapes
    family = identify(shapes, path)
    overrides = architecture_metadata(weights)
    components = {"unet": _unet(weights, shapes, family, overrides.get("unet", {}))}
    if any(key.startswith(VAE) for key in shapes):
        components["vae"] = vae_component(weights, shapes, family, overrides.get("vae", {}))
    for part, sources in text_encoder_parameters(shapes).items():
        with complete(path, part):
            config = text_config(parameter_shapes(sources, shapes), family, part)
        config = overridden(config, overrides.get(FOLDERS[part], {}))
        components[part] = Component(config, weights, sources)
    missing = [part for part in UNETS[family].text_parts if part not in components]
    if missing:
        raise FileFormatError(f"{path} has no text encoder ({', '.join(missing)}); use a complete checkpoint.")
    return Opened(path, family, shapes, components, weights.metadata)


def identify(shapes: Shapes, path: Path) -> str:
    """The family of a single file, refusing what is no base or cannot be trained in a sentence with file and remedy."""
    if not any(key.startswith(UNET) for key in shapes):
        if any(mark in key for key in shapes for mark in ADAPTER_MARKS):
            raise FileFormatError(
                f"{path} is an adapter (LoRA or similar), not a base; choose the checkpoint it was trained on, and "
                "give this file to network.start_from or network.frozen_adapters."
            )
        for key, what in NOT_BASES.items():
            if key in shapes:
                raise FileFormatError(f"{path} is {what}.")
    try:
        family = family_of(shapes)
    except FileFormatError as error:
        raise FileFormatError(f"{path} cannot be used as a base. {error}") from error
    if edm := next((key for key in shapes if key.startswith("edm_")), None):
        raise FileFormatError(
            f"{path} is an EDM model ({edm}), whose noise scale Adapter Lab does not train; "
            "choose an epsilon or v-prediction checkpoint."
        )
    if family == "sdxl" and not any(key.startswith("conditioner.embedders.") for key in shapes):
        if not any(key.startswith("cond_stage_model.") for key in shapes):
            raise FileFormatError(f"{path} has no text encoders; use a complete checkpoint.")
        raise FileFormatError(f"{path} is an unCLIP model, which Adapter Lab does not train; choose an ordinary one.")
    channels = shapes[f"{UNET}input_blocks.0.0.weight"][1]
    if channels != 4:
        kind = "an inpainting model" if channels == 9 else "an edit, upscaling or depth model"
        raise FileFormatError(
            f"{path} is {kind} ({channels} input channels instead of 4); choose the ordinary checkpoint."
        )
    return family


def architecture_metadata(weights: Weights) -> dict[str, dict[str, Any]]:
    """The configurations a file states in its `adapter_lab.architecture` metadata, by component."""
    text = weights.metadata.get("adapter_lab.architecture", "{}")
    try:
        found = jsonio.parsed(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise FileFormatError(
            f"{weights.path} has malformed adapter_lab.architecture metadata; it must be a JSON object of objects."
        )
    return found


def parameter_shapes(sources: Mapping[str, Source], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of transformers parameters, by name, from where they lie in the file."""
    found = {}
    for name, source in sources.items():
        shape = tuple(shapes[source.key])
        if source.rows:
            shape = (source.rows[1] - source.rows[0], *shape[1:])
        found[name] = shape[::-1] if source.transposed else shape
    return found


def _unet(weights: Weights, shapes: Shapes, family: str, overrides: Mapping[str, Any]) -> Component:
    sources = {}
    for ldm, diffusers in unet_module_paths(shapes).items():
        for kind in ("weight", "bias"):
            if f"{UNET}{ldm}.{kind}" in shapes:
                sources[f"{diffusers}.{kind}"] = Source(f"{UNET}{ldm}.{kind}")
    with complete(weights.path, "unet"):
        config = unet_config(shapes, family)
    return Component(overridden(config, overrides), weights, sources)


def vae_component(
    weights: Weights, shapes: Shapes, family: str, overrides: Mapping[str, Any], prefix: str = VAE
) -> Component:
    """The VAE among a file's tensors; `prefix` is what stands before `encoder.` there."""
    modules = dict.fromkeys(key[len(prefix) :].rsplit(".", 1)[0] for key in shapes if key.startswith(prefix))
    sources = {}
    for ldm, diffusers in vae_module_paths(modules).items():
        for kind in ("weight", "bias"):
            if f"{prefix}{ldm}.{kind}" in shapes:
                sources[f"{diffusers}.{kind}"] = Source(f"{prefix}{ldm}.{kind}")
    with complete(weights.path, "vae"):
        config = vae_config({VAE + key[len(prefix) :]: shapes[key] for key in shapes if key.startswith(prefix)}, family)
    return Component(overridden(config, overrides), weights, sources)
