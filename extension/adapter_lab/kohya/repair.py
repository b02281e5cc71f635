"""What an imported configuration must become so that a training accepts it, and what is said about each change."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from adapter_lab.config import TrainConfig, default_of
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys
from adapter_lab.kohya.training import SAME
from adapter_lab.validation import Problem, problems

# Our settings by name -> theirs, for what is said; the settings that several of theirs make have our name.
THEIRS = {
    **{f"{section}.{ours}": theirs for theirs, (section, ours, _) in SAME.items()},
    "base.clip_skip": "clip_skip",
    "dataset.bucket_min": "min_bucket_reso",
    "dataset.bucket_max": "max_bucket_reso",
    "dataset.caption_dropout": "caption_dropout_rate",
    "dataset.tag_dropout": "caption_tag_dropout_rate",
    "dataset.validation_fraction": "validation_split",
    "network.dim": "network_dim",
    "network.conv_dim": "network_args.conv_dim",
    "network.alpha": "network_alpha",
    "network.factor": "network_args.factor",
    "network.dropout": "network_dropout",
    "network.train_unet": "learning_rate",
    "network.max_norm": "scale_weight_norms",
    "loss.timestep_max": "max_timestep",
    "loss.timestep_min": "min_timestep",
    "optimizer.clip_grad_norm": "max_grad_norm",
    "optimizer.gradient_accumulation": "gradient_accumulation_steps",
    "optimizer.min_lr_ratio": "lr_scheduler_min_lr_ratio",
    "optimizer.power": "lr_scheduler_power",
    "optimizer.restarts": "lr_scheduler_num_cycles",
    "optimizer.timescale": "lr_scheduler_timescale",
    "run.batch_size": "train_batch_size",
    "run.epochs": "max_train_epochs",
    "run.steps": "max_train_steps",
}
# Changes beget changes, such as a swap of two bounds; what is still wrong then has no remedy here.
ROUNDS = 20


def make_valid(config: TrainConfig, keys: Keys) -> None:
    """Change every setting that a training would refuse to the nearest allowed value, else to its default, and say so.

    Raises ConfigError for what cannot be mended in this way.
    """
    for _ in range(ROUNDS):
        found = problems(config, complete=False)
        if not found:
            return
        # One at a time: a change may mend others, and checks of one setting against another come after the rest.
        _mend(config, found[0], keys)
    raise ConfigError(f"The imported settings do not fit together: {found[0].message}")


def _mend(config: TrainConfig, problem: Problem, keys: Keys) -> None:
    # "optimizer.betas[0]" is in a list that is mended as a whole, "dataset.sources[0].repeats" a setting of its own.
    section, name, *inner = re.findall(r"\w+", problem.setting)
    holder: Any = getattr(config, section)
    if len(inner) == 2:
        holder, name = getattr(holder, name)[int(inner[0])], inner[1]
    entry = next(entry for entry in fields(holder) if entry.name == name)
    value = getattr(holder, name)
    new = _allowed(value, entry)
    if new == value:
        raise ConfigError(f"The imported settings do not fit together: {problem.message}")
    setattr(holder, name, new)
    keys.note(THEIRS.get(problem.setting, problem.setting), value, f"{problem.message} Imported as {new!r}.")


def _allowed(value: Any, entry: Any) -> Any:
    """The nearest value in the setting's range; its default where the range is not what is wrong."""
    low, high = entry.metadata["minimum"], entry.metadata["maximum"]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if low is not None and value < low:
            return type(value)(low)
        if high is not None and value > high:
            return type(value)(high)
    return default_of(entry)
