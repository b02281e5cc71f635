"""What the API knows of the program it runs in: the worker, the web UI around it, and who may ask for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_lab.api.overview import Overview
from adapter_lab.worker import Worker

if TYPE_CHECKING:
    from adapter_lab.hosts.protocol import Host  # which imports torch


@dataclass
class Context:
    """One per process. `host` is None where Adapter Lab runs alone (`adapter-lab ui`).

    `data_folder`: where own presets are kept. `public`: whether others than this machine can reach the server.
    `folders`: folders that may be named in requests even then, beside the web UI's own. `names`: host names, beside
    this machine's own, under which the server is reached. `credentials`: name -> password of `--api-auth`.
    `while_training`: what a generation does then. `closing`: whether the server is about to stop, so that streams end.
    """

    worker: Worker
    data_folder: Path
    host: Host | None = None
    public: Callable[[], bool] = lambda: False
    folders: Callable[[], Sequence[Path]] = tuple
    names: Callable[[], Sequence[str]] = tuple
    credentials: Mapping[str, str] = field(default_factory=dict)
    while_training: Callable[[], str] = lambda: "go on"
    closing: Callable[[], bool] = lambda: False
    checkpoint_folders: Sequence[Path] = ()  # of a program without a web UI, as is the next
    own_adapter_folders: Sequence[Path] = ()
    overview: Overview = field(init=False, repr=False)
    estimates: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)  # what was asked -> the answer

    def __post_init__(self) -> None:
        self.overview = Overview(self.worker)

    def adapter_folders(self) -> list[Path]:
        """Folders of adapter files, the one to save into first."""
        return self.host.adapter_folder() if self.host else list(self.own_adapter_folders)
