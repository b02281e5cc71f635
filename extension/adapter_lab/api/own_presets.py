"""Presets: those that come with Adapter Lab, and a person's own, a TOML file each in the data folder."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from adapter_lab import config_file, presets
from adapter_lab.api.errors import BadRequest, NotFound
from adapter_lab.api.settings import flat
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.validation import is_reserved, validate

LONGEST = 80


@cache
def built_in() -> dict[str, dict[str, Any]]:
    """The presets that come with Adapter Lab, by name."""
    found = {}
    for name, about in presets.preset_table().items():
        base, kind, gigabytes = presets.parts(name)
        found[name] = {
            "name": name,
            "title": f"{presets.BASES[base][0]} · {presets.TYPES[kind][0]} · {gigabytes} GB",
            "about": about,
            "base": base,
            "type": kind,
            "memory_gb": gigabytes,
            "own": False,
            "settings": flat(presets.preset(name), only_changed=True),
        }
    found[presets.STUDY]["title"] = "The study's recipe (SDXL, LoRA, 8 GB)"
    return found


class OwnPresets:
    """A person's presets in a folder; a broken file is listed with what is wrong and harms nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[dict[str, Any]]:
        """Every own preset, by name."""
        return [self._described(path) for path in sorted(self.folder.glob("*.toml"))]

    def _described(self, path: Path) -> dict[str, Any]:
        about, settings, family, algo = "Your own.", {}, None, None
        try:
            config = config_file.load(path)
            settings = flat(config, only_changed=True)
            family = None if config.base.family == "auto" else config.base.family
            algo = config.network.algo
        except AdapterLabError as error:
            about = f"It cannot be used: {error}"
        return {
            "name": path.stem,
            "title": path.stem,
            "about": about,
            "base": family,
            "type": algo,
            "memory_gb": None,
            "own": True,
            "settings": settings,
        }

    def save(self, name: str, config: TrainConfig) -> None:
        """Write a preset, replacing one of that name; raises ConfigError for settings that cannot be trained."""
        path = self._path(name)
        validate(config, complete=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        config_file.write(config, path, only_changed=True)

    def load(self, name: str) -> TrainConfig:
        """A preset's configuration; raises NotFound."""
        path = self._path(name)
        if not path.is_file():
            raise NotFound(f"There is no preset {name}; choose another.")
        return config_file.load(path)

    def delete(self, name: str) -> None:
        """Remove a preset; raises NotFound."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise NotFound(f"There is no preset {name}, so there is nothing to delete.") from None

    def _path(self, name: str) -> Path:
        plain = name == name.strip(" .") and not re.search(r'[\\/:*?"<>|\x00-\x1f]', name)
        if not name or not plain or len(name) > LONGEST or is_reserved(name):
            raise BadRequest(
                f'{name!r} cannot be the name of a preset: use up to {LONGEST} characters, none of \\ / : * ? " < > |.'
            )
        if name in built_in():
            raise BadRequest(f"{name} is a preset of Adapter Lab's own, which stays as it is; choose another name.")
        return self.folder / f"{name}.toml"


def configuration(name: str, own: OwnPresets) -> TrainConfig:
    """The configuration of a preset of either kind, or every default for an empty name."""
    if not name:
        return TrainConfig()
    return presets.preset(name) if name in built_in() else own.load(name)
