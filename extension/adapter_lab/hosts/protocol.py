"""What the rest of Adapter Lab asks of a web UI: a new family is a new file with these and a row in `detect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapter_lab.hosts.loading.loader import Loader


@dataclass(frozen=True)
class CheckpointEntry:
    """A base model the web UI knows. `title` is what its drop-downs show."""

    title: str
    path: Path
    loaded: bool


class Host(Protocol):
    """One family of web UIs."""

    name: str  # its key in `verdict_table.HOSTS`
    title: str  # what people call it

    def install_loader(self, loader: Loader) -> list[str]:
        """Make the web UI load our files through `loader`; sentences about what it lacks, empty if nothing."""

    def remove_loader(self) -> None:
        """Undo `install_loader`; nothing of ours stays."""

    def settle(self) -> None:
        """All extensions have had their turn with the prompt's adapters, and nothing of the model has run yet."""

    def adapter_folder(self) -> list[Path]:
        """Folders the web UI finds `<lora:...>` files in, the one to save into first."""

    def checkpoints(self) -> list[CheckpointEntry]:
        """The base models the web UI knows."""

    def free_gpu(self) -> None:
        """Give the GPU's memory back by unloading the model; the web UI loads it again when it is needed."""

    def xyz_module(self) -> Any | None:
        """The module of the X/Y/Z plot script, whose `AxisOption`s ours are made of; None if there is none."""

    def reset_caches(self) -> None:
        """Forget what was applied and cached, so that the next generation reads every adapter file again."""
