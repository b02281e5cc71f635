"""Paths in requests: inside the allowed folders where others reach the server, and there when a run needs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from adapter_lab.adapters.strength import without_strength
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.context import Context
from adapter_lab.api.errors import Refused
from adapter_lab.config import TrainConfig, default_of, sections
from adapter_lab.environment.status import ROOT
from adapter_lab.study.scores.settings import scorer_settings
from adapter_lab.study.spec.definition import Study
from adapter_lab.validation import Problem


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


def check_parameters(context: Context, call: Call, parameters: Iterable[Parameter]) -> None:
    """As `check`, for every value of a request that is a path, `FILE` or `FILE:STRENGTH`."""
    for parameter in parameters:
        if parameter.kind in ("path", "paths"):
            value = call.values.get(parameter.name)
            given = value if isinstance(value, list) else [value] if value else []
            check(context, call.public, *map(without_strength, given))


def check_settings(context: Context, public: bool, config: TrainConfig) -> None:
    """As `check`, for every path that a configuration names."""
    check(context, public, *(found.path for found in named_paths(config)))


def check_scores(context: Context, public: bool, study: Study) -> None:
    """As `check`, for every path that scorers' settings name; a model that nobody chose is the one it always is."""
    for name, settings in scorer_settings(study).items():
        usual = {entry.name: default_of(entry) for entry in fields(settings)}
        chosen = (found for found in paths_of(settings, name) if found.path != usual.get(found.setting.split(".")[-1]))
        check(context, public, *(found.path for found in chosen))


@dataclass(frozen=True)
class NamedPath:
    """A path that a setting names; `kind`: of config.PATHS."""

    setting: str
    path: str
    kind: str


def named_paths(config: TrainConfig) -> Iterator[NamedPath]:
    """Every path in a configuration, but that of the runs, which lie in the worker's folder whatever is said."""
    for section, _ in sections():
        yield from paths_of(getattr(config, section), section)


def paths_of(values: Any, where: str) -> Iterator[NamedPath]:
    """Every path in a dataclass of settings, and in the tables of its lists."""
    for entry in fields(values):
        value, kind = getattr(values, entry.name), entry.metadata["path"]
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            setting = f"{where}.{entry.name}[{index}]" if isinstance(value, list) else f"{where}.{entry.name}"
            if is_dataclass(item):
                yield from paths_of(item, setting)
            elif kind not in ("", "decided") and item:
                yield NamedPath(setting, without_strength(item) if kind == "adapters" else item, kind)


def make_absolute(config: TrainConfig) -> None:
    """Write out every path in full, as seen from this process: what reads the settings later may run elsewhere."""
    for section, _ in sections():
        _make_absolute(getattr(config, section))


def _make_absolute(values: Any) -> None:
    for entry in fields(values):
        value, kind = getattr(values, entry.name), entry.metadata["path"]
        for item in value if isinstance(value, list) else ():
            if is_dataclass(item):
                _make_absolute(item)
        if kind in ("needed", "made"):
            setattr(values, entry.name, _absolute(value))
        elif kind == "adapters":
            setattr(values, entry.name, [_absolute(item) for item in value])


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path.strip() else path


def missing(config: TrainConfig) -> list[Problem]:
    """A problem for every path that a run needs and that is not there."""
    return [
        Problem(
            found.setting, f"{found.setting} is {found.path}, which is not there: choose another, or bring it back."
        )
        for found in named_paths(config)
        if found.kind in ("needed", "adapters") and not exists(found.path)
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
