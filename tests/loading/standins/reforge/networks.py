"""Stand-in for `networks` of reForge: the functions Adapter Lab replaces, as they behave there."""

from __future__ import annotations

import functools
import os
from typing import Any

import network
from ldm_patched.modules.sd import load_lora_for_models
from ldm_patched.modules.utils import load_torch_file
from modules import sd_models, shared

available_networks: dict[str, network.NetworkOnDisk] = {}
available_network_aliases: dict[str, network.NetworkOnDisk] = {}
forbidden_network_aliases: dict[str, int] = {}
loaded_networks: list[network.Network] = []


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
    wanted = [[entry.filename, unet, te] for entry, unet, te in zip(found, unet_multipliers, te_multipliers)]
    if current.current_lora_hash == str(wanted):
        return
    current.current_lora_hash = str(wanted)
    objects = current.forge_objects
    objects.unet, objects.clip = current.forge_objects_original.unet, current.forge_objects_original.clip
    for filename, unet, te in wanted:
        lora = load_lora_state_dict(filename)
        objects.unet, objects.clip = load_lora_for_models(objects.unet, objects.clip, lora, unet, te, filename=filename)
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
