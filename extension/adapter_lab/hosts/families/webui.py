"""What all descendants of A1111's web UI share: adapter files by name, folders, checkpoints, the X/Y/Z plot."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapter_lab.hosts.loading.loader import Request
from adapter_lab.hosts.protocol import CheckpointEntry


def requests_of(
    networks: Any,
    names: Sequence[str],
    te_strengths: Sequence[float] | None,
    unet_strengths: Sequence[float] | None,
    dyn: Sequence[int | None] | None,
) -> list[Request]:
    """What `networks.load_networks` was called with, each name resolved to a file as the web UI does it."""
    entries = [_entry(networks, name) for name in names]
    if not all(entries):
        networks.list_available_networks()  # a file may be new
        entries = [_entry(networks, name) for name in names]
    return [
        Request(
            name,
            entry.filename if entry is not None and os.path.isfile(entry.filename) else None,
            te_strengths[i] if te_strengths else 1.0,
            unet_strengths[i] if unet_strengths else 1.0,
            dyn[i] if dyn else None,
        )
        for i, (name, entry) in enumerate(zip(names, entries))
    ]


def _entry(networks: Any, name: str) -> Any | None:
    """A name that several files claim as their alias means the file's own name only."""
    ambiguous = name.lower() in networks.forbidden_network_aliases
    return (networks.available_networks if ambiguous else networks.available_network_aliases).get(name)


def file_of_tag(name: str) -> Path | None:
    """The file `<lora:name:1>` stands for, new ones looked for; None if there is none, or no way to know."""
    networks = sys.modules.get("networks")
    if networks is None:
        return None
    path = requests_of(networks, [name], None, None, None)[0].path
    return None if path is None else Path(path)


def without_missing(requests: Sequence[Request], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of `networks.load_networks` (lists or None) without the names that lead to no file."""
    kept = [i for i, request in enumerate(requests) if request.path is not None]
    return tuple(None if values is None else [values[i] for i in kept] for values in arguments)


def sampling_step() -> int:
    """The sampling step of the image that is being made, from 0."""
    state = getattr(sys.modules.get("modules.shared"), "state", None)
    return int(getattr(state, "sampling_step", 0) or 0)


def adapter_folders() -> list[Path]:
    """The folders `<lora:...>` files are found in, the one to save into first."""
    options = importlib.import_module("modules.shared").cmd_opts
    folders = (getattr(options, name, None) for name in ("lora_dir", "lyco_dir_backcompat"))
    return [Path(folder) for folder in folders if folder]


def listens_beyond() -> bool:
    """Whether others than this machine can reach the web UI."""
    options = importlib.import_module("modules.shared").cmd_opts
    if any(getattr(options, name, None) for name in ("listen", "share", "ngrok")):
        return True
    name = getattr(options, "server_name", None) or os.environ.get("GRADIO_SERVER_NAME", "")
    return name not in ("", "localhost", "127.0.0.1", "::1")


def api_credentials() -> dict[str, str]:
    """Name -> password of `--api-auth`; empty where the API asks for none."""
    given = getattr(importlib.import_module("modules.shared").cmd_opts, "api_auth", None) or ""
    pairs = (entry.split(":", 1) for entry in given.split(",") if ":" in entry)
    return {name.strip(): password.strip() for name, password in pairs}


def import_api() -> None:
    """Import the web UI's API now, if it is to have one (`--api`)."""
    if getattr(importlib.import_module("modules.shared").cmd_opts, "api", False):
        importlib.import_module("modules.api.api")


def own_folders() -> list[Path]:
    """The web UI's own folders of what a person brings: its data folder and that of embeddings."""
    options = importlib.import_module("modules.shared").cmd_opts
    embeddings = getattr(options, "embeddings_dir", None)
    return [folder for folder in (data_folder(), Path(embeddings) if embeddings else None) if folder]


def checkpoint_entries(loaded: str | None) -> list[CheckpointEntry]:
    """The checkpoints in the web UI's list; `loaded`: the path of the one in memory."""
    known = importlib.import_module("modules.sd_models").checkpoints_list.values()
    return [
        CheckpointEntry(info.title, Path(info.filename), loaded is not None and info.filename == loaded)
        for info in known
    ]


def data_folder() -> Path | None:
    """Where the web UI keeps what people make; None if it does not say."""
    paths = sys.modules.get("modules.paths_internal")
    folder = getattr(paths, "data_path", None)
    return Path(folder) if folder else None


def xyz_script() -> Any | None:
    """The module of the X/Y/Z plot script: scripts run without becoming importable."""
    scripts = sys.modules.get("modules.scripts")
    for data in getattr(scripts, "scripts_data", ()):
        if data.script_class.__module__ == "xyz_grid.py":
            return data.module
    return None
