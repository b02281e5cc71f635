"""Optimisers by name, with a learning rate per part."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from adapter_lab import library_optimizers
from adapter_lab.config import OptimizerConfig, TrainConfig, stated_rate
from adapter_lab.errors import ConfigError
from adapter_lab.families import UNET
from adapter_lab.prospects import fitted

USUAL_RATE = {
    "prodigy": 1.0,
    "prodigy-plus-schedule-free": 1.0,
    "adamw": 1e-4,
    "adamw8bit": 1e-4,
    "adafactor": 1e-4,
    "lion": 3e-5,
}


@dataclass(frozen=True)
class RateGroup:
    """Parameters of one part ("unet", "te1", "te2") that share a learning rate."""

    part: str
    lr: float
    parameters: list[Parameter]


def rate_of(config: OptimizerConfig, part: str) -> float:
    """Learning rate of a part: its own, else the common one, else the optimiser's usual."""
    stated = stated_rate(config, part)
    if not isinstance(stated, str):
        return stated
    return USUAL_RATE[config.name] if config.name in USUAL_RATE else library_optimizers.usual_rate(config.name)


def rate_groups(
    parameters: Mapping[str, Sequence[tuple[Parameter, float]]], config: OptimizerConfig
) -> list[RateGroup]:
    """Parameters grouped by part and rate; those with a rate of 0 are frozen and left out.

    `parameters`: part -> (parameter, rate relative to the part's). A rate of 0 does not stop an optimiser from moving a
    parameter (Prodigy's momentum and weight decay go on), so such parameters must not have a gradient at all.
    """
    groups: dict[tuple[str, float], list[Parameter]] = {}
    for part, entries in parameters.items():
        for parameter, scale in entries:
            rate = rate_of(config, part) * scale
            if rate == 0:
                parameter.requires_grad_(False)
                parameter.grad = None
            else:
                groups.setdefault((part, rate), []).append(parameter)
    if not groups:
        raise ConfigError(
            "Every learning rate is 0, so nothing would be trained; set optimizer.lr or lr_scale above 0."
        )
    return [RateGroup(part, rate, members) for (part, rate), members in groups.items()]


Groups = list[dict[str, Any]]


def _prodigy(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    from adapter_lab.training.optim.prodigy import Prodigy

    def build(members: Groups) -> torch.optim.Optimizer:
        return Prodigy(
            members,
            lr=members[0]["lr"],
            betas=_betas(c),
            eps=c.eps,
            weight_decay=c.weight_decay,
            decouple=c.decouple,
            use_bias_correction=c.use_bias_correction,
            safeguard_warmup=c.safeguard_warmup,
            d0=c.d0,
            d_coef=c.d_coef,
            growth_rate=c.growth_rate or math.inf,
            slice_p=c.slice_p,
        )

    # One instance holds one estimate d and refuses two rates, so parts with a rate of their own get their own estimate.
    if len({group["lr"] for group in groups}) == 1:
        return [build(groups)]
    return [build([group]) for group in groups]


def _prodigy_plus(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    from prodigyplus import ProdigyPlusScheduleFree

    return [
        ProdigyPlusScheduleFree(
            groups, betas=_betas(c), eps=c.eps, weight_decay=c.weight_decay, d0=c.d0, d_coef=c.d_coef
        )
    ]


def _adamw(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(groups, betas=_betas(c), eps=c.eps, weight_decay=c.weight_decay)]


def _adamw8bit(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    bitsandbytes = importlib.import_module("bitsandbytes")
    return [bitsandbytes.optim.AdamW8bit(groups, betas=_betas(c), eps=c.eps, weight_decay=c.weight_decay)]


def _adafactor(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    from transformers.optimization import Adafactor

    # The rate is ours: no step-dependent rate, and none relative to the size of the weights, which start at zero.
    return [Adafactor(groups, scale_parameter=False, relative_step=False, weight_decay=c.weight_decay)]


def _lion(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    from lion_pytorch import Lion

    return [Lion(groups, betas=_betas(c), weight_decay=c.weight_decay)]


def _library(groups: Groups, c: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """An optimiser of pytorch-optimizer; those of Muon's kind are told which parameters are matrices."""
    import pytorch_optimizer

    if library_optimizers.needs_marks(c.name):
        groups = [marked for group in groups for marked in _marked(group)]
    values, _ = library_optimizers.arguments(c.name, c.args)
    try:
        optimizer: Any = pytorch_optimizer.load_optimizer(c.name)(groups, **values)
    except Exception as error:  # each has checks of its own, with errors of its own
        raise ConfigError(f"optimizer.args: {c.name} does not accept these values ({error}); correct them.") from error
    if hasattr(optimizer, "train"):
        optimizer.train()
    return [optimizer]


def _marked(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for matrices in (True, False):
        members = [parameter for parameter in group["params"] if (parameter.ndim > 1) == matrices]
        if members:
            yield {**group, "params": members, "use_muon": matrices}


BUILDERS: dict[str, Callable[[Groups, OptimizerConfig], list[torch.optim.Optimizer]]] = {
    "prodigy": _prodigy,
    "prodigy-plus-schedule-free": _prodigy_plus,
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "lion": _lion,
}


PACKAGES = {
    "prodigy": ("prodigyopt", "prodigyopt"),
    "prodigy-plus-schedule-free": ("prodigyplus", "prodigy-plus-schedule-free"),
    "adamw8bit": ("bitsandbytes", "bitsandbytes"),
    "lion": ("lion_pytorch", "lion-pytorch"),
}


def check_available(config: OptimizerConfig) -> None:
    """Raise ConfigError where the optimiser cannot be used here or refuses its settings, before anything is loaded."""
    _check_package(config)
    # Of a matrix and a vector, which some optimisers tell apart.
    parameters = [Parameter(torch.zeros(2, 2)), Parameter(torch.zeros(2))]
    optimizer = build_optimizer([RateGroup(UNET, rate_of(config, UNET) or 1e-4, parameters)], config)
    if config.name == "adamw8bit":  # which steps on a GPU alone
        return
    try:
        for size in (0.0, 1e-3):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, size)
            optimizer.step()
    except (ArithmeticError, ValueError, RuntimeError) as error:
        raise ConfigError(_refused(config, f"a first step fails ({error})")) from error
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise ConfigError(_refused(config, "a first step gives values that are not finite"))


def _refused(config: OptimizerConfig, why: str) -> str:
    return (
        f"{config.name} cannot train with these settings in [optimizer]: {why}. Correct them, or remove those that "
        "differ from their defaults."
    )


def _check_package(config: OptimizerConfig) -> None:
    module, package = PACKAGES.get(config.name, ("torch", "torch"))
    if config.name in library_optimizers.NAMES:
        module, package = "pytorch_optimizer", "pytorch-optimizer"
    try:
        importlib.import_module(module)
    except Exception as error:  # bitsandbytes raises various errors where its CUDA library does not fit
        raise ConfigError(
            f"optimizer.name is {config.name}, but its package {package} cannot be used here ({error}); choose adamw, "
            f"or install {package}."
        ) from error


def build_optimizer(groups: Sequence[RateGroup], config: OptimizerConfig) -> OptimizerSet:
    """The configured optimiser over all groups; raises ConfigError where it cannot be used on this machine.

    What `config` leaves to "auto" is chosen as for a run of unknown length.
    """
    _check_package(config)
    config = fitted(TrainConfig(optimizer=config), 0)
    members = [{"params": group.parameters, "lr": group.lr, "part": group.part} for group in groups]
    with contextlib.redirect_stdout(io.StringIO()):  # some announce their settings on stdout, which may be JSON
        try:
            return OptimizerSet(BUILDERS.get(config.name, _library)(members, config))
        except (ValueError, TypeError, AssertionError) as error:  # what constructors say of values out of range
            raise ConfigError(_refused(config, str(error))) from error


class OptimizerSet(torch.optim.Optimizer):
    """Several optimisers as one, so that gradient scaling, clipping and state see a single optimiser."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        super().__init__([group for member in self.members for group in member.param_groups], {})
        self._share_groups()
        for group in self.param_groups:
            group.setdefault("base_lr", group["lr"])

    def _share_groups(self) -> None:
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def parameters(self) -> Iterator[Parameter]:
        """Every trained parameter, in a fixed order."""
        for group in self.param_groups:
            yield from group["params"]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every member; `closure` is not supported."""
        for member in self.members:
            member.step()

    @property
    def start(self) -> dict[str, float]:
        """What Prodigy's estimate begins with: growth_rate (0 for any), d0 and d_coef; {} for other optimisers."""
        group = self.param_groups[0]
        found = {name: float(group[name]) for name in ("growth_rate", "d0", "d_coef") if name in group}
        return {name: 0.0 if value == math.inf else value for name, value in found.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=set_to_none)

    def set_rate_factor(self, factor: float) -> None:
        """Set every group's rate to `factor` times its configured one."""
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * factor

    def rates(self) -> dict[str, dict[str, float | Tensor]]:
        """Per part, what the coming step will use: `lr`, and for the Prodigy family `d`, `d_hat`.

        `lr` is the effective rate; for Prodigy d * lr with the factor sqrt(1 - beta2^k) / (1 - beta1^k) of Adam's bias
        correction where that is on. Values that are known on the device alone are 0-dim tensors there. A part with
        several groups shows its first.
        """
        shown: dict[str, dict[str, float | Tensor]] = {}
        for member in self.members:
            for group in member.param_groups:
                if group["part"] in shown:
                    continue
                values: dict[str, float | Tensor] = {"lr": float(group["lr"])}
                shown[group["part"]] = values
                if "d" in group:
                    values |= _estimate(member, group)
                    values["lr"] *= values["d"] * _bias_correction(group)
        return shown

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors of every member."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict` exactly, number formats included."""
        if len(state_dict["members"]) != len(self.members):
            raise ConfigError("The saved optimiser has other groups than the configured one; start a new run instead.")
        for member, state in zip(self.members, state_dict["members"]):
            member.load_state_dict(state)
            _restore_formats(member, state)
        self._share_groups()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, parameters hold the schedule-free average where there is one; after it, exactly what they held."""
        averaging: list[Any] = [member for member in self.members if hasattr(member, "eval")]
        kept = [(p, p.detach().clone()) for member in averaging for g in member.param_groups for p in g["params"]]
        for member in averaging:
            member.eval()
        try:
            yield
        finally:
            for member in averaging:
                member.train()
            # Interpolating there and back is not exact, and saving must not change what is trained.
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)


def _betas(config: OptimizerConfig) -> tuple[float, float]:
    if len(config.betas) != 2:
        raise ConfigError(f"optimizer.betas needs two numbers, but has {len(config.betas)}.")
    return config.betas[0], config.betas[1]


def _estimate(member: Any, group: Mapping[str, Any]) -> dict[str, float | Tensor]:
    """Prodigy's d and d_hat of a group."""
    if hasattr(member, "estimate"):
        return member.estimate()
    return {"d": float(group["d"]), "d_hat": float(group.get("d_hat", group["d"]))}


def _bias_correction(group: Mapping[str, Any]) -> float:
    """prodigyopt's factor on d * lr in the coming step; 1 without bias correction and for Prodigy+ScheduleFree."""
    if "d_max" not in group or not group["use_bias_correction"]:
        return 1.0
    beta1, beta2 = group["betas"]
    steps = group["k"] + 1
    return math.sqrt(1 - beta2**steps) / (1 - beta1**steps)


def _restore_formats(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Undo torch's casting of every state tensor to its parameter's number format, which would round differently."""
    saved = [index for group in state["param_groups"] for index in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in zip(saved, parameters):
        for name, value in state["state"].get(index, {}).items():
            if isinstance(value, Tensor) and optimizer.state[parameter][name].dtype != value.dtype:
                optimizer.state[parameter][name] = value.to(parameter.device, copy=True)
