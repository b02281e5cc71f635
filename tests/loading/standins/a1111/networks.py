"""Stand-in of extensions-builtin/Lora/networks.py: patches a layer when it runs, unless the names and strengths
are those it was patched for last, however new the files are."""

import os
from types import SimpleNamespace

import network
import torch
from modules import shared
from safetensors.torch import load_file

available_networks = {}
available_network_aliases = {}
forbidden_network_aliases = {}
loaded_networks = []
networks_in_memory = {}
extra_network_lora = SimpleNamespace(errors={})


def load_network(name, network_on_disk):
    net = network.Network(name, network_on_disk)
    net.mtime = os.path.getmtime(network_on_disk.filename)
    found = {}
    for key, tensor in load_file(network_on_disk.filename).items():
        layer, _, suffix = key.partition(".")
        if layer == "bundle_emb":
            net.bundle_embeddings[suffix.partition(".")[0]] = tensor
            continue
        found.setdefault(layer.replace("lora_unet", "diffusion_model"), {})[suffix] = tensor
    for layer, tensors in found.items():
        module = shared.sd_model.network_layer_mapping.get(layer)
        if module is not None:
            if not {"lora_up.weight", "diff"} & set(tensors):
                raise AssertionError(f"no type of module takes {list(tensors)}")
            net.modules[layer] = network.NetworkModule(net, tensors, module)
    return net


def purge_networks_from_memory():
    while len(networks_in_memory) > shared.opts.lora_in_memory_limit:
        networks_in_memory.pop(next(iter(networks_in_memory)))


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    already = {net.name: net for net in loaded_networks}
    loaded_networks.clear()
    if any(name not in available_network_aliases for name in names):
        list_available_networks()
    for i, name in enumerate(names):
        entry = available_network_aliases.get(name)
        net = already.get(name)
        if entry is not None and (net is None or os.path.getmtime(entry.filename) > net.mtime):
            try:
                net = networks_in_memory[name] = load_network(name, entry)
            except Exception as error:
                print(f"loading network {entry.filename}: {error}")
                continue
        if net is not None:
            net.te_multiplier, net.unet_multiplier = te_multipliers[i], unet_multipliers[i]
            net.dyn_dim = dyn_dims[i] if dyn_dims else 1.0
            loaded_networks.append(net)
    purge_networks_from_memory()


def network_restore_weights_from_backup(self):
    if getattr(self, "network_weights_backup", None) is None:
        return
    for tensor, backup in zip(_host_weights(self), self.network_weights_backup):
        tensor.copy_(backup)
    if self.network_bias_backup is not None:
        _host_bias(self).copy_(self.network_bias_backup)


def network_apply_weights(self):
    name = getattr(self, "network_layer_name", None)
    if name is None:
        return
    wanted = tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in loaded_networks)
    if wanted and getattr(self, "network_weights_backup", None) is None:
        self.network_weights_backup = [tensor.to("cpu", copy=True) for tensor in _host_weights(self)]
        bias = _host_bias(self)
        self.network_bias_backup = None if bias is None else bias.to("cpu", copy=True)
    if getattr(self, "network_current_names", ()) == wanted:
        return
    network_restore_weights_from_backup(self)
    for net in loaded_networks:
        if name in net.modules:
            updown, _ = net.modules[name].calc_updown(self.weight)
            self.weight.copy_(self.weight.to(updown.dtype) + updown)
    self.network_current_names = wanted


def network_forward(org_module, input, original_forward):
    if loaded_networks:
        network_restore_weights_from_backup(org_module)
        network_reset_cached_weight(org_module)
    y = original_forward(org_module, input)
    for net in loaded_networks:
        module = net.modules.get(getattr(org_module, "network_layer_name", None))
        y = y if module is None else module.forward(input, y)
    return y


def network_reset_cached_weight(self):
    self.network_current_names = ()
    self.network_weights_backup = None
    self.network_bias_backup = None


def list_available_networks():
    available_networks.clear()
    available_network_aliases.clear()
    for filename in sorted(os.listdir(shared.cmd_opts.lora_dir)):
        name, ending = os.path.splitext(filename)
        if ending in (".safetensors", ".pt"):
            entry = network.NetworkOnDisk(name, os.path.join(shared.cmd_opts.lora_dir, filename))
            available_networks[name] = available_network_aliases[name] = entry


def _host_weights(layer):
    if isinstance(layer, torch.nn.MultiheadAttention):
        return [layer.in_proj_weight, layer.out_proj.weight]
    return [layer.weight]


def _host_bias(layer):
    return layer.out_proj.bias if isinstance(layer, torch.nn.MultiheadAttention) else layer.bias
