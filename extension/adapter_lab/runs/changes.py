"""What may be changed in a run that is resumed: how long, what is saved and shown where, and where it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.errors import ConfigError

CHANGEABLE = (
    "run.steps",
    "run.epochs",
    "run.minutes",
    "run.output_folder",
    "save.",
    "preview.",
    "precision.device",
    "precision.gradient_checkpointing",
    "precision.phased_loading",
)


def change(config: TrainConfig, changes: Mapping[str, Any]) -> None:
    """Set settings of a run that is resumed; raises ConfigError for one that would make it another run."""
    for name, value in changes.items():
        section, _, setting = name.partition(".")
        owner = getattr(config, section, None)
        if owner is None or not hasattr(owner, setting):
            raise ConfigError(f"{name} is no setting.")
        if not name.startswith(CHANGEABLE) or name == "save.ema":
            raise ConfigError(
                f"{name} cannot be changed when a run is resumed, as it would be another run; start a new one."
            )
        setattr(owner, setting, value)
