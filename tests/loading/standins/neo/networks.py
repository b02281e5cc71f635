"""Stand-in for `networks` of Neo's sd_forge_lora: the functions Adapter Lab replaces, as they behave there."""

from __future__ import annotations

import functools
import os
from typing import Any

import network
from backend.args import dynamic_args
from backend.patcher.lora import load_lora, model_lora_keys_clip, model_lora_keys_unet
from backend.utils import load_torch_file
from modules import sd_models, shared

available_networks: dict[str, network.NetworkOnDisk] = {}
available_network_aliases: dict[str, network.NetworkOnDisk] = {}
forbidden_network_aliases: set[str] = set()
loaded_networks: list[network.Network] = []

load_lora_state_dict = functools.partial(load_torch_file, safe_load=True)


def process_anima(lora: dict[str, Any]) -> dict[str, Any]:
    """The conditioner's modules have other names in files: the host asks whether its model is of the class `Anima`."""
    renamed = (
        ("diffusion_model.llm_adapter", "text_encoders.qwen3_06b.llm_adapter"),
        ("lora_unet_llm_adapter", "lora_te_llm_adapter"),
    )
    for key in list(lora):
        for start, own in renamed:
            if key.startswith(start):
                lora[key.replace(start, own)] = lora.pop(key)
    return lora


def load_lora_for_models(
    model: Any, clip: Any, lora: Any, strength_model: float, strength_clip: float, filename: str = "default",
    online_mode: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    if dynamic_args.nunchaku:
        model.model.loras = [*getattr(model.model, "loras", []), (filename, strength_model)]
        return model, clip
    if any(key.startswith("qwen3_06b.llm_adapter.") for key in clip.cond_stage_model.state_dict()):
        lora = process_anima(dict(lora))
    unet, rest = load_lora(lora, model_lora_keys_unet(model.model))
    text, rest = load_lora(rest, model_lora_keys_clip(clip.cond_stage_model))
    if len(rest) / len(lora) > 0.5:
        return model, clip
    new_model, new_clip = model.clone(), clip.clone()
    new_model.add_patches(filename=filename, patches=unet, strength_patch=strength_model, online_mode=online_mode)
    new_clip.add_patches(filename=filename, patches=text, strength_patch=strength_clip, online_mode=online_mode)
    return new_model, new_clip


def load_networks(names: Any, te_multipliers: Any = None, unet_multipliers: Any = None) -> None:
    current = sd_models.model_data.get_sd_model()
    loaded_networks.clear()
    update_available_networks_by_names([name for name in names if name not in available_network_aliases])
    found: list[Any] = [available_network_aliases.get(name) for name in names]
    for entry, name in zip(found, names):
        try:
            os.path.getmtime(entry.filename)
            loaded = network.Network(name, entry)
            loaded.mentioned_name = name
            entry.read_hash()
            loaded_networks.append(loaded)
        except Exception:
            print(f"Failed to load {name}")
    online = dynamic_args.online_lora or False
    strengths = zip(found, unet_multipliers, te_multipliers)
    wanted = [[entry.filename, unet, te, online] for entry, unet, te in strengths if entry is not None]
    if current.current_lora_hash == str(wanted):
        return
    current.current_lora_hash = str(wanted)
    objects = current.forge_objects
    objects.unet, objects.clip = current.forge_objects_original.unet, current.forge_objects_original.clip
    for filename, unet, te, online in wanted:
        lora = load_lora_state_dict(filename)
        if any(key.startswith("lora_unet__") for key in lora):
            lora = {key.replace("lora_unet__", "lora_unet_"): tensor for key, tensor in lora.items()}
        objects.unet, objects.clip = load_lora_for_models(
            objects.unet, objects.clip, lora, unet, te, filename=filename, online_mode=online
        )
    current.forge_objects_after_applying_lora = objects.shallow_copy()


def process_network_files(names: list[str] | None = None) -> None:
    for file in sorted(os.listdir(shared.cmd_opts.lora_dir)):
        name = os.path.splitext(file)[0]
        if file.endswith((".safetensors", ".pt")) and (not names or name in names):
            entry = network.NetworkOnDisk(name, os.path.join(shared.cmd_opts.lora_dir, file))
            available_networks[name] = available_network_aliases[name] = entry


def update_available_networks_by_names(names: list[str]) -> None:
    process_network_files(names)


def list_available_networks() -> None:
    available_networks.clear()
    available_network_aliases.clear()
    process_network_files()
