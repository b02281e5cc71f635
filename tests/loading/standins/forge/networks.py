"""Stand-in for `networks` of Forge's sd_forge_lora: the functions Adapter Lab replaces, as they behave there."""

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
forbidden_network_aliases: dict[str, int] = {}
loaded_networks: list[network.Network] = []


def load_lora_for_models(
    model: Any, clip: Any, lora: Any, strength_model: float, strength_clip: float, filename: str = "default",
    online_mode: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    unet, rest = load_lora(lora, model_lora_keys_unet(model.model))
    text, rest = load_lora(rest, model_lora_keys_clip(clip.cond_stage_model))
    if len(rest) > 12:
        return model, clip
    new_model, new_clip = model.clone(), clip.clone()
    common = {"filename": filename, "online_mode": online_mode}
    new_model.add_patches(patches=unet, strength_patch=strength_model, **common)
    new_clip.add_patches(patches=text, strength_patch=strength_clip, **common)
    return new_model, new_clip


@functools.lru_cache(maxsize=5)
def load_lora_state_dict(filename: str) -> Any:
    return load_torch_file(filename, safe_load=True)


def load_network(name: str, network_on_disk: network.NetworkOnDisk) -> network.Network:
    loaded = network.Network(name, network_on_disk)
    loaded.mtime = os.path.getmtime(network_on_disk.filename)
    return loaded


def load_networks(names: Any, te_multipliers: Any = None, unet_multipliers: Any = None, dyn_dims: Any = None) -> None:
    current = sd_models.model_data.get_sd_model()
    loaded_networks.clear()
    update_available_networks_by_names([name for name in names if name not in available_network_aliases])
    found: list[Any] = [available_network_aliases.get(name) for name in names]
    for entry, name in zip(found, names):
        loaded = load_network(name, entry)
        loaded.mentioned_name = name
        entry.read_hash()
        loaded_networks.append(loaded)
    online = dynamic_args.get("online_lora", False)
    wanted = [[entry.filename, unet, te, online] for entry, unet, te in zip(found, unet_multipliers, te_multipliers)]
    if current.current_lora_hash == str(wanted):
        return
    current.current_lora_hash = str(wanted)
    objects = current.forge_objects
    objects.unet, objects.clip = current.forge_objects_original.unet, current.forge_objects_original.clip
    for filename, unet, te, online in wanted:
        lora = load_lora_state_dict(filename)
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
