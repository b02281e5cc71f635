"""The network of adapter layers on a UNet and its text encoders: building, attaching, saving and loading."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.keys import Target
from adapter_lab.config import NetworkConfig
from adapter_lab.errors import ConfigError
from adapter_lab.families import UNET
from adapter_lab.training.forwards import LAYERS, AdapterLayer
from adapter_lab.training.forwards.operation import Operation
from adapter_lab.training.network.files import add_frozen_adapters, check_tensors, tensors_of_file
from adapter_lab.training.network.modules import find_module
from adapter_lab.training.network.plan import LayerPlan, plan_network

__all__ = ["AdapterNetwork", "LayerPlan", "add_frozen_adapters", "build_network", "plan_network"]


class AdapterNetwork(nn.Module):
    """Adapter layers by the LDM name of their module; the base's weights are not among its parameters."""

    def __init__(
        self,
        layers: Mapping[str, AdapterLayer],
        plans: list[LayerPlan],
        max_norm: float = 0.0,
        outer_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.plans = plans
        self.max_norm = max_norm
        self.outer_ratio = outer_ratio
        self._enabled = True
        self._noise_shares: Tensor | None = None
        self._replaced: list[tuple[nn.Module, Any]] | None = None
        for plan, layer in zip(plans, layers.values()):
            layer.switch = self._is_enabled
            if plan.target.part == UNET:  # text is encoded for all times alike
                layer.noise_shares = lambda: self._noise_shares

    def _is_enabled(self) -> bool:
        return self._enabled

    def tell_noise(self, shares: Tensor) -> None:
        """Say how much of each sample of the batch that comes next is noise: (B,), from 0 to 1.

        It holds through the backward pass, where checkpointing computes the forward again.
        """
        self._noise_shares = shares

    def attach(self) -> None:
        """Put the adapted forwards in the place of the modules' own; nothing happens if they already are."""
        if self._replaced is not None:
            return
        self._replaced = []
        for layer in self._adapter_layers():
            module: Any = layer.base
            self._replaced.append((module, module.__dict__.get("forward")))
            module.forward = functools.partial(layer.run, module.forward)

    def detach(self) -> None:
        """Give every module back the forward it had, exactly."""
        for module, own in self._replaced or ():
            if own is None:
                del module.__dict__["forward"]
            else:
                module.forward = own
        self._replaced = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the base model runs as if there were no adapter (frozen adapters stay active)."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def parameters_by_part(self) -> dict[str, list[tuple[nn.Parameter, float]]]:
        """(parameter, learning rate relative to the part's) of "unet", "te1" and "te2", in a fixed order."""
        found: dict[str, list[tuple[nn.Parameter, float]]] = {}
        for plan, layer in zip(self.plans, self._adapter_layers()):
            entries = found.setdefault(plan.target.part, [])
            for name, parameter in sorted(layer.named_parameters()):
                entries.append((parameter, plan.lr_scale * (self.outer_ratio if name in layer.outer else 1.0)))
        return found

    @property
    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def adapter_tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The tensors of an adapter file by key, on the CPU: `adapters` reads exactly the trained W' from them."""
        return {
            f"{plan.target.kohya}.{suffix}": tensor.to(device="cpu", dtype=dtype, copy=True)
            for plan, layer in zip(self.plans, self._adapter_layers())
            for suffix, tensor in layer.file_tensors().items()
        }

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor], source: str = "The adapter") -> None:
        """Take the values of a file's tensors (keys as `adapter_tensors` gives them), so that W' becomes the file's.

        Raises ConfigError, with a list, unless the file has exactly this network's modules and their shapes.
        """
        modules: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, suffix = key.partition(".")
            modules.setdefault(name, {})[suffix] = tensor
        check_tensors(modules, self.plans, source)
        for plan, layer in zip(self.plans, self._adapter_layers()):
            layer.load_file_tensors(modules[plan.target.kohya])

    def apply_max_norm(self) -> None:
        """Scale updates larger than `max_norm` down to it; nothing happens if that is 0."""
        if self.max_norm > 0:
            for layer in self._adapter_layers():
                if layer.folded_into:
                    layer.limit_norm(self.max_norm)

    def _adapter_layers(self) -> list[AdapterLayer]:
        return list(self.layers.values())  # type: ignore[arg-type]


def build_network(
    config: NetworkConfig,
    targets: Mapping[str, Target],
    parts: Mapping[str, nn.Module],
    seed: int,
    initial_values: bool = True,
) -> AdapterNetwork:
    """The adapter layers the settings ask for, on the modules of `parts` ("unet", "te1", "te2"), not yet attached.

    Each layer's first values depend only on the seed and its module's name, so that networks that share a layer start
    alike. Freezes the parts. Frozen adapters are added to the parts' weights unless `add_frozen_adapters` did so.
    `initial_values=False` leaves values unset and is for dry runs on fake tensors.
    """
    plans = plan_network(config, targets)
    missing = sorted({plan.target.part for plan in plans} - set(parts))
    if missing:
        raise ConfigError(f"The settings train {', '.join(missing)}, which is not loaded.")
    add_frozen_adapters(config.frozen_adapters, targets, parts)
    for part in parts.values():
        part.requires_grad_(False)
    layers = {
        plan.name: _layer(plan, find_module(parts[plan.target.part], plan.target), seed, initial_values)
        for plan in plans
    }
    network = AdapterNetwork(layers, plans, config.max_norm, config.lora_plus_ratio)
    if config.start_from:
        network.load_adapter_tensors(tensors_of_file(config.start_from, targets), config.start_from)
    return network


def _layer(plan: LayerPlan, module: nn.Module, seed: int, initial_values: bool) -> AdapterLayer:
    kind = LAYERS[plan.spec.algo]
    device = next(iter([*module.parameters(), *module.buffers()])).device
    if not initial_values:  # made in place, since modules of fake tensors cannot be moved
        return kind(plan.spec, module, {n: torch.empty(s, device=device) for n, s in plan.parameters.items()})
    # Drawn on the CPU whatever the device is, and apart from everything else that draws numbers.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_of(seed, plan.name))
        values = kind.initial_values(plan.spec, lambda: Operation(module, plan.name).weight(torch.float32))
    return kind(plan.spec, module, values).to(device)


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
