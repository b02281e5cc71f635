"""Paths in requests: inside the allowed folders where others reach the server, and there when a run needs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from adapter_lab.adapters.strength import without_strength
from adapter_lab.api.context import Context
from adapter_lab.api.errors import Refused
from adapter_lab.config import TrainConfig
from adapter_lab.environment.status import ROOT
from adapter_lab.validation import Problem

# Setting -> whether it must be there before a run (False: it is made).
PATHS = {
    "base.checkpoint": True,
    "base.vae": True,
    "dataset.folder": True,
    "dataset.regularisation_folder": True,
    "dataset.cache_folder": False,
    "network.start_from": True,
    "run.output_folder": False,
}
# run.runs_folder is none of them: whatever a request says, its runs lie in the worker's folder.


def allowed_folders(context: Context) -> list[Path]:
    """Folders whose files may be named: adapters, checkpoints, runs, the web UI's data, those of the Settings page."""
    checkpoints = [entry.path.parent for entry in context.host.checkpoints()] if context.host else []
    return [
        *context.adapter_folders(),
        *dict.fromkeys(checkpoints),
        *context.checkpoint_folders,
        context.worker.root,
        context.data_folder,
        *context.folders(),
        ROOT / "runs",
    ]


def check(context: Context, public: bool, *paths: str | os.PathLike[str]) -> None:
    """Raise Refused for a path outside of the allowed folders, where `public` asks for it; links are followed first."""
    if not public:
        return
    roots = [_real(folder) for folder in allowed_folders(context)]
    for path in paths:
        real = _real(path)
        if not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
            raise Refused(
                f"{path} lies outside of the folders that may be used while others than this machine can reach this "
                f"page. {_remedy(context)}"
            )


def _remedy(context: Context) -> str:
    if context.host is None:
        return "Name its folder with --folder where `adapter-lab ui` is started, or move it into the runs folder."
    return "Move it into the web UI's folder, or add its folder to Settings > Adapter Lab > Further folders."


def _real(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.normcase(os.path.realpath(os.path.expanduser(path)))
    except ValueError:  # a null character
        raise Refused(f"{os.fspath(path)!r} is not a path.") from None


def check_settings(context: Context, public: bool, config: TrainConfig) -> None:
    """As `check`, for every path that a configuration names."""
    check(context, public, *(path for _, path, _ in named_paths(config)))


def named_paths(config: TrainConfig) -> Iterator[tuple[str, str, bool]]:
    """(setting, path, whether it must exist) of every path in a configuration."""
    for setting, needed in PATHS.items():
        section, name = setting.split(".")
        value = getattr(getattr(config, section), name)
        if value:
            yield setting, value, needed
    for index, source in enumerate(config.dataset.sources):
        if source.folder:
            yield f"dataset.sources[{index}].folder", source.folder, True
    for index, adapter in enumerate(config.network.frozen_adapters):
        if adapter:
            yield f"network.frozen_adapters[{index}]", without_strength(adapter), True


def make_absolute(config: TrainConfig) -> None:
    """Write out every path in full, as seen from this process: what reads the settings later may run elsewhere."""
    for setting in PATHS:
        section, name = setting.split(".")
        setattr(getattr(config, section), name, _absolute(getattr(getattr(config, section), name)))
    for source in config.dataset.sources:
        source.folder = _absolute(source.folder)
    config.network.frozen_adapters = [_absolute(adapter) for adapter in config.network.frozen_adapters]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path.strip() else path


def missing(config: TrainConfig) -> list[Problem]:
    """A problem for every path that a run needs and that is not there."""
    return [
        Problem(setting, f"{setting} is {path}, which is not there: choose another, or bring it back.")
        for setting, path, needed in named_paths(config)
        if needed and not exists(path)
    ]


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether something is at `path`; False also for what is no path."""
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:
        return False


def inside(path: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a file lies in one of `folders`, links followed."""
    real = _real(path)
    return any(real.startswith(_real(folder).rstrip(os.sep) + os.sep) for folder in folders)
