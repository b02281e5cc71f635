"""kohya's optimiser options (`optimizer_type`, `optimizer_args`, `lr_*`) as our optimiser."""

from __future__ import annotations

import math
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, arguments, numbers

_ADAM: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
# Their name in lower case -> our name, and the defaults of that package, which hold where optimizer_args is silent.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", _ADAM),
    "adamw8bit": ("adamw8bit", _ADAM),
    "pagedadamw8bit": ("adamw8bit", _ADAM),
    "lion": ("lion", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
    "adafactor": ("adafactor", {"weight_decay": 0.0}),
    "prodigy": (
        "prodigy",
        {
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
        },
    ),
    "prodigyplusschedulefree": (
        "prodigy-plus-schedule-free",
        {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0, "d0": 1e-6, "d_coef": 1.0},
    ),
}
BOOLEAN = ("decouple", "use_bias_correction", "safeguard_warmup")
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine-restarts",
    "linear": "linear",
}
ADAFACTOR_FIXED = {"relative_step": "False", "scale_parameter": "False", "warmup_init": "False"}


def import_optimizer(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.optimizer`, but for the rates that the network import reads."""
    optimizer = config.optimizer
    args = keys.table(arguments(keys.take("optimizer_args"), "optimizer_args"), "optimizer_args")
    given = keys.text("optimizer_type", "AdamW8bit" if keys.boolean("use_8bit_adam") else "AdamW")
    word = given.rsplit(".", 1)[-1].lower()
    if word not in OPTIMIZERS:
        raise ConfigError(
            f"{keys.called('optimizer_type')} is {given!r}, which is not available here; choose one of "
            f"{', '.join(dict.fromkeys(row[0] for row in OPTIMIZERS.values()))} in the imported file."
        )
    optimizer.name, defaults = OPTIMIZERS[word]
    if word == "pagedadamw8bit":
        keys.note("optimizer_type", given, "imported as adamw8bit, whose state is not paged")
    for name, default in defaults.items():
        setattr(optimizer, name, _argument(args, name, default))
    if optimizer.name == "adafactor":
        for name, ours in ADAFACTOR_FIXED.items():
            value = args.text(name, "True" if name != "warmup_init" else "False")
            if value.lower() != ours.lower():
                args.note(name, value, f"Adafactor runs here with {name}={ours} and the configured rate")
    for name in list(args.values):
        args.leave(name, f"{optimizer.name} has no such option here")
    optimizer.gradient_accumulation = keys.integer("gradient_accumulation_steps", 1)
    optimizer.clip_grad_norm = keys.number("max_grad_norm", 1.0)


def _argument(args: Keys, name: str, default: Any) -> Any:
    if name == "betas":
        return numbers(args.take(name, default))
    if name in BOOLEAN:
        return args.boolean(name, default)
    if name == "slice_p":
        return args.integer(name, default)
    value = args.number(name, default)
    return 0.0 if math.isinf(value) else value  # growth_rate: ours writes "unlimited" as 0


def import_schedule(config: TrainConfig, keys: Keys) -> None:
    """Fill the schedule; needs the number of steps for a warm-up given as a share of them."""
    optimizer = config.optimizer
    schedule = keys.text("lr_scheduler", "constant")
    if schedule in SCHEDULES:
        optimizer.schedule = SCHEDULES[schedule]
    else:
        keys.note("lr_scheduler", schedule, "there is no such schedule here; constant is used")
    cycles = keys.integer("lr_scheduler_num_cycles", 1)
    if optimizer.schedule == "cosine-restarts":
        optimizer.restarts = cycles
    warmup = keys.number("lr_warmup_steps")
    if 0 < warmup < 1 and config.run.steps:
        warmup = round(warmup * config.run.steps)
    elif 0 < warmup < 1:
        keys.note("lr_warmup_steps", warmup, "a share of an unknown number of steps; set optimizer.warmup_steps")
        warmup = 0
    # Without "_with_warmup" sd-scripts' constant schedule takes no notice of it.
    if schedule == "constant" and warmup:
        keys.note("lr_warmup_steps", warmup, "sd-scripts ignores it with lr_scheduler constant")
        warmup = 0
    optimizer.warmup_steps = int(warmup)
