"""Opening the base that a run is configured for."""

from __future__ import annotations

from pathlib import Path

from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError
from adapter_lab.families import FAMILIES, UNET, Family, row_of
from adapter_lab.training.bases.anima.base import is_anima, open_anima
from adapter_lab.training.bases.common import Base, Sizes
from adapter_lab.training.bases.diffusers_folder import open_any
from adapter_lab.training.bases.stable_diffusion import open_stable_diffusion

__all__ = ["Base", "Sizes", "open_base"]


def open_base(config: BaseConfig) -> Base:
    """Open the base a run is configured for, reading headers only.

    Raises ConfigError for contradictory settings and FileFormatError for a file that is no trainable base.
    """
    if not config.checkpoint:
        raise ConfigError("base.checkpoint is empty; give it a .safetensors or .ckpt file or a diffusers folder.")
    path = Path(config.checkpoint).expanduser()
    if is_anima(path):
        _check_family(config, path, FAMILIES["anima"])
        return open_anima(path, config)
    opened = open_any(path)
    _check_family(config, path, row_of(opened.family, opened.components[UNET].config))
    return open_stable_diffusion(opened, config)


def _check_family(config: BaseConfig, path: Path, row: Family) -> None:
    """A model that was distilled from a family is of it too."""
    if config.family not in ("auto", row.key, row.family):
        raise ConfigError(f"base.family is {config.family}, but {path} is {row.title}; set base.family to auto.")
