"""Bases as diffusers folders: the same components, under diffusers' and transformers' own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapter_lab import jsonio
from adapter_lab.adapters.layouts import Source
from adapter_lab.errors import FileFormatError
from adapter_lab.families import FOLDERS, UNETS, of_unet
from adapter_lab.training.bases.architecture import (
    complete,
    overridden,
    text_config,
    unet_config,
    vae_config,
)
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.ldm import ldm_state
from adapter_lab.training.bases.names import OLD_VAE_ATTENTION, VAE
from adapter_lab.training.bases.single_file import (
    Opened,
    architecture_metadata,
    identify,
    open_single_file,
    parameter_shapes,
    vae_component,
)
from adapter_lab.training.bases.sources import ShardedWeights, Weights, open_weights

# File names of a component's weights before the ending, and variants in order of preference.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = ("", ".fp16", ".bf16", ".fp32", ".ema", ".non_ema")
ENDINGS = (".safetensors", ".bin")


def open_folder(path: Path) -> Opened:
    """Read configurations and headers of a diffusers folder; raises FileFormatError with a sentence."""
    if not (path / "unet").is_dir():
        kind = _json(path / "model_index.json").get("_class_name")
        if kind:
            raise FileFormatError(f"{path} is a {kind} without a UNet; Adapter Lab trains SD1.5, SD2.x and SDXL.")
        raise FileFormatError(
            f"{path} is a folder, but not a diffusers one (no `unet` inside); choose a .safetensors file or the folder "
            "that has model_index.json."
        )
    configs = {part: _json(path / folder / "config.json") for part, folder in _parts(path).items()}
    family = _family(path, configs)
    weights = {part: component_weights(path / folder) for part, folder in _parts(path).items()}
    sources = {part: _sources(part, weights[part]) for part in weights}
    shapes = _ldm_shapes(path, family, weights, sources)
    identify(shapes, path)
    components = {}
    for part, places in sources.items():
        with complete(weights[part].path, part):
            config = _derived(part, shapes, family, places, weights[part])
        components[part] = Component(overridden(config, configs[part]), weights[part], places)
    scheduler = _json(path / "scheduler" / "scheduler_config.json") or None
    return Opened(path, family, shapes, components, {}, scheduler)


def _parts(path: Path) -> dict[str, str]:
    folders = {"unet": "unet", "vae": "vae", **FOLDERS}
    return {part: folder for part, folder in folders.items() if (path / folder).is_dir()}


def _family(path: Path, configs: Mapping[str, Mapping[str, Any]]) -> str:
    unet = configs["unet"]
    family = of_unet(unet.get("addition_embed_type") == "text_time", bool(unet.get("use_linear_projection"))).key
    missing = [FOLDERS[part] for part in UNETS[family].text_parts if part not in configs]
    if missing:
        refiner = " (an SDXL refiner has only text_encoder_2)" if missing == ["text_encoder"] else ""
        raise FileFormatError(f"{path} has no folder {', '.join(missing)}{refiner}; use a complete pipeline.")
    return family


def component_weights(folder: Path) -> Weights:
    """The weights in one component's folder, whatever their variant, in one file or several."""
    for ending in ENDINGS:
        for variant in VARIANTS:
            for stem in STEMS:
                if (file := folder / f"{stem}{variant}{ending}").is_file():
                    return open_weights(file)
    indexes = sorted(folder.glob("*.index*.json"))
    if indexes:
        names = sorted(set(_json(indexes[0]).get("weight_map", {}).values()))
        return ShardedWeights(folder, [open_weights(folder / name) for name in names])
    others = sorted(file for ending in ENDINGS for file in folder.glob(f"*{ending}"))
    if len(others) == 1:
        return open_weights(others[0])
    raise FileFormatError(f"{folder} holds no weights (diffusion_pytorch_model.safetensors or model.safetensors).")


def _sources(part: str, weights: Weights) -> dict[str, Source]:
    """Places of parameters by today's names: old VAE attention names and missing `text_model.` are put right."""
    sources = {}
    for key in weights.shapes:
        name = key
        if part == "vae":
            head, _, kind = key.rpartition(".")
            stem, _, last = head.rpartition(".")
            if last in OLD_VAE_ATTENTION:
                name = f"{stem}.{OLD_VAE_ATTENTION[last]}.{kind}"
        elif part in FOLDERS:
            if key.endswith("position_ids"):
                continue
            if not key.startswith(("text_model.", "text_projection.")):
                name = f"text_model.{key}"
        sources[name] = Source(key)
    return sources


def _ldm_shapes(
    path: Path, family: str, weights: Mapping[str, Weights], sources: Mapping[str, Mapping[str, Source]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the single file that would hold the same pipeline."""
    states = {}
    for part, places in sources.items():
        shapes = weights[part].shapes
        states[part] = {name: torch.empty(shapes[place.key], device="meta") for name, place in places.items()}
    encoders = {part: states[part] for part in FOLDERS if part in states}
    try:
        tensors = ldm_state(family, states["unet"], states.get("vae"), encoders)
    except KeyError as error:
        raise FileFormatError(
            f"{path} has weights that no {UNETS[family].title} model has ({error}), so Adapter Lab cannot train it; "
            "choose an ordinary pipeline."
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _derived(
    part: str,
    shapes: dict[str, tuple[int, ...]],
    family: str,
    places: Mapping[str, Source],
    weights: Weights,
) -> dict[str, Any]:
    if part == "unet":
        return unet_config(shapes, family)
    if part == "vae":
        return vae_config(shapes, family)
    config = text_config(parameter_shapes(places, weights.shapes), family, part)
    # A folder's encoder has no unused last layer to leave out.
    config["num_hidden_layers"] += UNETS[family].text_part(part).unused_layers
    return config


def open_vae(path: Path, family: str) -> Component:
    """A VAE of its own: a file with LDM or diffusers names, a `vae` folder, or a pipeline folder that has one."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        return _diffusers_vae(component_weights(folder), _json(folder / "config.json"), path, family)
    weights = open_weights(path)
    shapes, stated = weights.shapes, architecture_metadata(weights).get("vae", {})
    for prefix in (VAE, ""):
        if f"{prefix}encoder.down.0.block.0.conv1.weight" in shapes:
            return vae_component(weights, shapes, family, stated, prefix)
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes:
        return _diffusers_vae(weights, stated, path, family)
    raise FileFormatError(f"{path} is not a VAE of SD1.5, SD2 or SDXL; choose another file, or leave base.vae empty.")


def _diffusers_vae(weights: Weights, config: Mapping[str, Any], path: Path, family: str) -> Component:
    sources = _sources("vae", weights)
    own = weights.shapes
    state = {name: torch.empty(own[place.key], device="meta") for name, place in sources.items()}
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in ldm_state(family, vae=state).items()}
        return Component(overridden(vae_config(shapes, family), config), weights, sources)
    except (KeyError, IndexError, ValueError) as error:
        raise FileFormatError(f"{path} is not a VAE of SD1.5, SD2 or SDXL ({error}); choose another.") from error


def open_any(path: Path) -> Opened:
    """Open a checkpoint file or a diffusers folder."""
    return open_folder(path) if path.is_dir() else open_single_file(path)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object's content, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = jsonio.read(path)
    except ValueError as error:
        raise FileFormatError(f"{path} is not valid JSON ({error}); download the folder again.") from error
    return content if isinstance(content, dict) else {}
