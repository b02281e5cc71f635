"""kohya's optimiser options (`optimizer_type`, `optimizer_args`) as our optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from adapter_lab import library_optimizers
from adapter_lab.config import TrainConfig
from adapter_lab.kohya.reading import Keys

_ADAM: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
_LION: dict[str, Any] = {"betas": [0.9, 0.99], "weight_decay": 0.0}
_PRODIGY: dict[str, Any] = {
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decouple": True,
    "use_bias_correction": False,
    "safeguard_warmup": False,
    "d0": 1e-6,
    "d_coef": 1.0,
    "growth_rate": 0.0,
    "slice_p": 1,
}
BOOLEAN = ("decouple", "use_bias_correction", "safeguard_warmup")
# Adafactor's usual rate here, and AdamW's.
USUAL_RATE = 1e-4


@dataclass(frozen=True)
class Theirs:
    """An optimiser of theirs: ours for it, and the defaults of its package, which hold where optimizer_args is silent.

    `lost`: what is said where it becomes another one. `own_rate`: its rates mean nothing to ours.
    """

    ours: str
    defaults: dict[str, Any] = field(default_factory=dict)
    lost: str = ""
    own_rate: bool = False


def _nearest(ours: str, lost: str, own_rate: bool = False) -> Theirs:
    defaults = {"adamw": _ADAM, "prodigy": {**_PRODIGY, "use_bias_correction": True}}
    return Theirs(ours, defaults[ours], lost, own_rate)


_NOT_PAGED = "the same here, with a state that is not paged"
_WIDE = "the same here, with a state of 32 bits"
# By their name in lower case, without the package.
OPTIMIZERS: dict[str, Theirs] = {
    "adamw": Theirs("adamw", _ADAM),
    "adamw8bit": Theirs("adamw8bit", _ADAM),
    "pagedadamw": Theirs("adamw", _ADAM, _NOT_PAGED),
    "pagedadamw32bit": Theirs("adamw", _ADAM, _NOT_PAGED),
    "pagedadamw8bit": Theirs("adamw8bit", _ADAM, _NOT_PAGED),
    "lion": Theirs("lion", _LION),
    "lion8bit": Theirs("lion", _LION, _WIDE),
    "pagedlion8bit": Theirs("lion", _LION, _WIDE),
    "adafactor": Theirs("adafactor", {"weight_decay": 0.0}),
    "prodigy": Theirs("prodigy", _PRODIGY),
    "prodigyplusschedulefree": Theirs(
        "prodigy-plus-schedule-free",
        {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0, "d0": 1e-6, "d_coef": 1.0},
    ),
    **{
        name: _nearest("prodigy", "Prodigy is the nearest here, which estimates its rate as D-Adaptation does")
        for name in ("dadaptation", "dadaptadampreprint", "dadaptadam", "dadaptadanip")
    },
}
# Those that pytorch-optimizer has under another name: its name, what sd-scripts or the package that it has them from
# gives by itself, and what is said.
LIBRARY: dict[str, tuple[str, dict[str, str], str]] = {
    "adamwschedulefree": ("schedulefreeadamw", {}, ""),
    "radamschedulefree": ("schedulefreeradam", {}, ""),
    "sgdschedulefree": ("schedulefreesgd", {}, ""),
    "sgdnesterov": ("sgd", {"momentum": "0.9", "nesterov": "True"}, ""),
    "sgdnesterov8bit": ("sgd", {"momentum": "0.9", "nesterov": "True"}, _WIDE),
    **dict.fromkeys(
        ("ademamix8bit", "pagedademamix8bit"),
        ("ademamix", {"weight_decay": "0.01", "weight_decouple": "True"}, _WIDE),
    ),
}
UNKNOWN = _nearest("adamw", "this optimiser is not known here; AdamW is used instead", own_rate=True)


def import_optimizer(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.optimizer`, but for the schedule; the rates are those that the network import has read."""
    optimizer = config.optimizer
    args = keys.table(keys.arguments("optimizer_args"), "optimizer_args")
    usual = "Lion" if keys.boolean("use_lion_optimizer") else "AdamW"
    given = keys.text("optimizer_type", "AdamW8bit" if keys.boolean("use_8bit_adam") else usual)
    word = given.rsplit(".", 1)[-1].lower()
    if word in LIBRARY or (word not in OPTIMIZERS and word in library_optimizers.NAMES):
        _of_library(config, word, args, keys)
    else:
        _own(config, word, given, args, keys)
    for name in list(args.values):
        args.leave(name, f"{optimizer.name} has no such option here")
    optimizer.gradient_accumulation = keys.integer("gradient_accumulation_steps", 1)
    optimizer.clip_grad_norm = keys.number("max_grad_norm", 1.0)


def _own(config: TrainConfig, word: str, given: str, args: Keys, keys: Keys) -> None:
    """An optimiser whose options are settings of their own, or the nearest of these."""
    optimizer, theirs = config.optimizer, OPTIMIZERS.get(word, UNKNOWN)
    optimizer.name = theirs.ours
    if theirs.lost:
        why = library_optimizers.REFUSED.get(word)
        keys.note(
            "optimizer_type", given, f"{theirs.lost}; that one cannot train adapters: {why}" if why else theirs.lost
        )
    for name, default in theirs.defaults.items():
        setattr(optimizer, name, _argument(args, name, default))
    if theirs.own_rate:
        _usual_rate(config, keys)
    if optimizer.name == "adafactor":
        _adafactor(config, args, keys)


def _of_library(config: TrainConfig, word: str, args: Keys, keys: Keys) -> None:
    """An optimiser of pytorch-optimizer, with those of its arguments that it takes."""
    name, given, lost = LIBRARY.get(word, (word, {}, ""))
    config.optimizer.name = name
    if lost:
        keys.note("optimizer_type", word, lost)
    for argument in list(args.values):
        text = str(args.take(argument, ""))
        _, wrong = library_optimizers.arguments(name, [f"{argument}={text}"])
        if wrong:
            args.note(argument, text, wrong[0] if len(wrong[0]) < 300 else "it is not what that argument takes")
        else:
            given = {**given, argument: text}
    config.optimizer.args = [f"{argument}={text}" for argument, text in given.items()]


def _argument(args: Keys, name: str, default: Any) -> Any:
    if name == "betas":
        betas = args.numbers(name, default)
        if len(betas) != 2:
            args.note(name, betas, "two are used here: the first two" if len(betas) > 2 else "two are needed here")
        return betas[:2] if len(betas) >= 2 else default
    if name in BOOLEAN:
        return args.boolean(name, default)
    if name == "slice_p":
        return args.integer(name, default)
    value = args.number(name, default, infinite=name == "growth_rate")
    return 0.0 if math.isinf(value) else value  # ours writes "unlimited" as 0


def _adafactor(config: TrainConfig, args: Keys, keys: Keys) -> None:
    """Adafactor at the configured rate, which is what it is here; theirs by default chooses its steps itself."""
    relative, warmup = args.boolean("relative_step", True), args.boolean("warmup_init")
    if relative or warmup:
        args.note("relative_step", True, "Adafactor chooses its own steps there; here it has a rate")
        _usual_rate(config, keys)
    if args.boolean("scale_parameter", True):
        args.note(
            "scale_parameter", True, "there a step is the rate times the size of the weights, here the rate itself"
        )


def _usual_rate(config: TrainConfig, keys: Keys) -> None:
    """Rates of an optimiser that ours is not like: the largest becomes the usual one, the others in proportion."""
    optimizer = config.optimizer
    rates = {name: getattr(optimizer, name) for name in ("lr", "te1_lr", "te2_lr")}
    stated = [rate for rate in rates.values() if isinstance(rate, float)]
    largest = max(stated, default=0.0)
    if largest <= 0 or largest == USUAL_RATE:
        return
    for name, rate in rates.items():
        if isinstance(rate, float):
            setattr(optimizer, name, rate / largest * USUAL_RATE)
    keys.note("learning_rate", largest, f"the rate belongs to that optimiser; {USUAL_RATE:g} is used for the largest")
