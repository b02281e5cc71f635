"""kohya's learning-rate schedules (`lr_scheduler*`, `lr_warmup_steps`) as ours."""

from __future__ import annotations

from adapter_lab.config import SCHEDULE_FREE, TrainConfig
from adapter_lab.kohya.reading import Keys, shown

SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine-restarts",
    "cosine_with_min_lr": "cosine",
    "linear": "linear",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse-sqrt",
}
# Words in the class of a schedule (`lr_scheduler_type`), and what it becomes; the first that fits.
CLASSES = {
    "rex": "rex",
    "warmrestarts": "cosine-restarts",
    "cosine": "cosine",
    "linear": "linear",
    "polynomial": "polynomial",
}


def import_schedule(config: TrainConfig, keys: Keys) -> None:
    """Fill the schedule and the warm-up."""
    optimizer = config.optimizer
    schedule = keys.text("lr_scheduler", "constant")
    optimizer.schedule = _schedule(schedule, keys.text("lr_scheduler_type"), keys)
    if optimizer.name in SCHEDULE_FREE and optimizer.schedule != "constant":
        keys.note("lr_scheduler", schedule, "schedule-free optimisers have no schedule, there as here")
        optimizer.schedule = "constant"
    cycles, power = keys.integer("lr_scheduler_num_cycles", 1), keys.number("lr_scheduler_power", 1.0)
    timescale, lowest = keys.integer("lr_scheduler_timescale"), keys.number("lr_scheduler_min_lr_ratio")
    if optimizer.schedule == "cosine-restarts":
        optimizer.restarts = cycles
    if optimizer.schedule == "polynomial":
        optimizer.power = power
    if optimizer.schedule == "inverse-sqrt" and timescale:
        optimizer.timescale = timescale
    if schedule == "cosine_with_min_lr" and optimizer.schedule == "cosine":
        optimizer.min_lr_ratio = lowest
        if cycles != 1:
            keys.note("lr_scheduler_num_cycles", cycles, "this schedule falls once here")
    _warm_up(config, schedule, keys)


def _schedule(name: str, kind: str, keys: Keys) -> str:
    """Our name of a schedule; `kind`, a class of torch's or another package's, wins in sd-scripts."""
    if kind:
        word = kind.rsplit(".", 1)[-1].lower().replace("_", "")
        ours = next((ours for part, ours in CLASSES.items() if part in word), "constant")
        keys.note("lr_scheduler_type", kind, f"it becomes our {ours} schedule over the whole budget")
        return ours
    if name.startswith("adafactor"):
        keys.note("lr_scheduler", name, "it shows the steps that Adafactor chooses there; constant is used")
        return "constant"
    if name not in SCHEDULES:
        keys.note("lr_scheduler", name, "there is no such schedule here; constant is used")
    return SCHEDULES.get(name, "constant")


def _warm_up(config: TrainConfig, schedule: str, keys: Keys) -> None:
    optimizer, run = config.optimizer, config.run
    warmup = keys.number("lr_warmup_steps")
    if schedule == "constant" and warmup:
        keys.note("lr_warmup_steps", warmup, "a constant schedule has no warm-up there; constant_with_warmup has")
    elif 0 < warmup < 1 and run.steps:
        optimizer.warmup_steps = int(warmup * run.steps + 1e-6)
    elif 0 < warmup < 1:
        optimizer.warmup_ratio = warmup
    elif warmup > 0:
        optimizer.warmup_steps = int(warmup)
    elif warmup < 0:
        keys.note("lr_warmup_steps", warmup, f"{shown(warmup)} is no length; there is no warm-up")
