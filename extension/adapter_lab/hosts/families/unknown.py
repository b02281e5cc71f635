"""A web UI of no family we know: it gets everything that needs no hook."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapter_lab.hosts.loading.loader import Loader
from adapter_lab.hosts.protocol import CheckpointEntry


class UnknownHost:
    """What nearly every descendant of A1111 has: a folder of adapters, a list of checkpoints."""

    name = "unknown"
    title = "this web UI"

    def install_loader(self, loader: Loader) -> list[str]:
        return ["This web UI is not one Adapter Lab knows, so it loads adapter files itself; all else works."]

    def remove_loader(self) -> None:
        """Nothing was installed."""

    def settle(self) -> None:
        """Nothing of ours is applied there."""

    def adapter_folder(self) -> list[Path]:
        folder = getattr(importlib.import_module("modules.shared").cmd_opts, "lora_dir", None)
        return [Path(folder)] if folder else []

    def checkpoints(self) -> list[CheckpointEntry]:
        models = importlib.import_module("modules.sd_models")
        return [
            CheckpointEntry(info.title, Path(info.filename), loaded=False)
            for info in getattr(models, "checkpoints_list", {}).values()
        ]

    def free_gpu(self) -> None:
        models: Any = importlib.import_module("modules.sd_models")
        with suppress(AttributeError):
            models.unload_model_weights()

    def xyz_module(self) -> Any | None:
        return None

    def reset_caches(self) -> None:
        """Nothing of ours is cached there."""


HOST = UnknownHost()
