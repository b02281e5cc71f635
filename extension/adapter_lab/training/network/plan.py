"""Which modules get which adapter, and what a file of it will hold: without base weights, LyCORIS or any module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from adapter_lab import algorithms
from adapter_lab.adapters.keys import Target
from adapter_lab.algorithms import OwnOptions
from adapter_lab.config import NetworkConfig, RuleConfig, trained_parts
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards import LAYERS, LayerSpec
from adapter_lab.training.forwards.spec import Shape

# Roles of modules -> what must be on for them to be trained.
ROLES = {
    "attention": lambda c: c.attention,
    "feed_forward": lambda c: c.feed_forward,
    "projection": lambda c: c.projections,
    "conv": lambda c: c.conv_dim > 0 or c.train_conv,
    "time_embedding": lambda c: c.time_embedding and (c.conv_dim > 0 or c.train_conv),
    "modulation": lambda c: c.modulation,
    "norm": lambda c: c.train_norm,
}
# Options of NetworkConfig that a layer takes as they are, where its algorithm has them.
LAYER_OPTIONS = (
    *(entry.name for entry in fields(OwnOptions)),
    "tucker",
    "init",
    "use_scalar",
    "rs_lora",
    "dropout",
    "rank_dropout",
    "module_dropout",
)


@dataclass(frozen=True)
class LayerPlan:
    """One adapter layer that will be made."""

    target: Target
    spec: LayerSpec
    lr_scale: float
    parameters: Mapping[str, Shape]  # trained ones by name
    file_tensors: Mapping[str, Shape]  # by the suffix of their key in a file

    @property
    def name(self) -> str:
        """The module's LDM name."""
        return self.target.name

    @property
    def algo(self) -> str:
        """The algorithm; "norm" for a normalisation layer."""
        return self.spec.algo

    @property
    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def file_layout(self) -> dict[str, Shape]:
        """Shapes of the layer's tensors by their full key in a file."""
        return {f"{self.target.kohya}.{suffix}": shape for suffix, shape in self.file_tensors.items()}


def plan_network(config: NetworkConfig, targets: Mapping[str, Target]) -> list[LayerPlan]:
    """Every layer the settings ask for, in the order of `targets` (`adapters.keys.targets` of a checkpoint's shapes).

    Raises ConfigError for dims a module cannot have, for a rule that changes nothing, and if nothing is left to train.
    """
    used: set[int] = set()
    chosen: list[tuple[Target, LayerSpec, RuleConfig | None]] = []
    for target in targets.values():
        if not _is_trained(config, target):
            continue
        index = next((i for i, rule in enumerate(config.rules) if fnmatchcase(target.name, rule.match)), None)
        rule = None if index is None else config.rules[index]
        if index is not None:
            used.add(index)
        if rule is None or rule.algo != "none":
            chosen.append((target, _spec(config, target, rule), rule))
    _refuse_useless_rules(config, used)
    if not chosen:
        raise ConfigError("These settings leave no module to train; turn on more of network.attention and its kin.")
    for algo in dict.fromkeys(spec.algo for _, spec, _ in chosen):
        LAYERS[algo].refuse_impossible([spec for _, spec, _ in chosen if spec.algo == algo])
    return [_plan(target, spec, rule) for target, spec, rule in chosen]


def _is_trained(config: NetworkConfig, target: Target) -> bool:
    return trained_parts(config)[target.part] and target.role in ROLES and bool(ROLES[target.role](config))


def _spec(config: NetworkConfig, target: Target, rule: RuleConfig | None) -> LayerSpec:
    """The layer's options: the rule's where it has any, and only those its algorithm has."""
    algo = "norm" if target.kind == "norm" else (rule.algo if rule else "") or config.algo
    # As in kohya's trainers and LyCORIS, linear layers and 1x1 convolutions of the convolution set have the linear dim.
    is_large = any(size != 1 for size in target.shape[2:])
    dim = config.conv_dim if is_large and config.conv_dim else config.dim
    if rule is not None and not isinstance(rule.dim, str):
        dim = rule.dim
    options: dict[str, Any] = {name: getattr(config, name) for name in LAYER_OPTIONS if _has_option(algo, name)}
    if rule is not None and not isinstance(rule.factor, str) and "factor" in options:
        options["factor"] = rule.factor
    if _has_option(algo, "dora") and config.dora:
        options["dora"] = config.dora_axis
    return LayerSpec(
        name=target.name,
        kind=target.kind,
        shape=tuple(target.shape),
        has_bias=target.bias_key is not None,
        algo=algo,
        dim=dim,
        alpha=_alpha(config, rule, is_large, dim),
        **options,
    )


def _alpha(config: NetworkConfig, rule: RuleConfig | None, is_large: bool, dim: int) -> float:
    """Alpha of a module of this dim: the rule's, else that of convolutions, else the network's."""
    stated = [rule.alpha if rule else "same", config.conv_alpha if is_large else "same", config.alpha]
    first = next(value for value in stated if value != "same")
    return float(dim) if isinstance(first, str) else first


def _has_option(algo: str, name: str) -> bool:
    users = algorithms.users(name)
    return users is None or algo in users


def _plan(target: Target, spec: LayerSpec, rule: RuleConfig | None) -> LayerPlan:
    layer = LAYERS[spec.algo]
    return LayerPlan(target, spec, rule.lr_scale if rule else 1.0, layer.trained_shapes(spec), layer.file_shapes(spec))


def _refuse_useless_rules(config: NetworkConfig, used: set[int]) -> None:
    for index, rule in enumerate(config.rules):
        if index not in used:
            raise ConfigError(
                f"network.rules[{index}] (match {rule.match!r}) changes nothing: no module that is trained has such a "
                "name, or an earlier rule takes them all; correct the pattern or remove the rule."
            )
