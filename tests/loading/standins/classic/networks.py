"""Stand-in of extensions-builtin/Lora/networks.py: drops every adapter of a prompt for one bad name, never looks at
a file's time, and does nothing for the list of adapters it saw last."""

import functools
import os

import network
from ldm_patched.modules.sd import load_lora_for_models
from ldm_patched.modules.utils import load_torch_file
from modules import sd_models, shared

available_networks = {}
available_network_aliases = {}
forbidden_network_aliases = {}
loaded_networks = []


@functools.lru_cache(maxsize=5)
def load_lora_state_dict(filename):
    return load_torch_file(filename, safe_load=True)


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    model = sd_models.model_data.get_sd_model()
    loaded_networks.clear()
    if any(name not in available_network_aliases for name in names):
        list_available_networks()
    entries = [available_network_aliases.get(name) for name in names]
    loaded_networks.extend(network.Network(name, entry) for name, entry in zip(names, entries) if entry is not None)
    wanted = [[entry.filename, unet, te] for entry, unet, te in zip(entries, unet_multipliers, te_multipliers)]
    if model.current_lora_hash == str(wanted):
        return
    model.current_lora_hash = str(wanted)
    objects, original = model.forge_objects, model.forge_objects_original
    objects.unet, objects.clip = original.unet, original.clip
    for filename, unet, te in wanted:
        tensors = load_lora_state_dict(filename)
        objects.unet, objects.clip = load_lora_for_models(objects.unet, objects.clip, tensors, unet, te, filename)
    model.forge_objects_after_applying_lora = objects.shallow_copy()


def list_available_networks():
    available_networks.clear()
    available_network_aliases.clear()
    for filename in sorted(os.listdir(shared.cmd_opts.lora_dir)):
        name, ending = os.path.splitext(filename)
        if ending in (".safetensors", ".pt"):
            entry = network.NetworkOnDisk(name, os.path.join(shared.cmd_opts.lora_dir, filename))
            available_networks[name] = available_network_aliases[name] = entry
