"""What a person can choose from: settings, presets, checkpoints, adapter files; and how the program stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapter_lab import __version__
from adapter_lab.api import own_presets, roots, settings
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.context import Context
from adapter_lab.api.device import device
from adapter_lab.api.importing import imported
from adapter_lab.api.own_presets import OwnPresets
from adapter_lab.api.route import Route
from adapter_lab.environment.status import read_status
from adapter_lab.hosts.settings import ASK

MOST_FILES = 5000
SETTINGS = Parameter("settings", "settings", "settings by path, those that differ from their default", {})


def status(context: Context, call: Call) -> dict[str, Any]:
    environment, host = read_status(), context.host
    active = context.worker.active()
    folders = context.adapter_folders()
    return {
        "version": __version__,
        "host": {"name": host.name, "title": host.title} if host else {"name": "", "title": "Adapter Lab"},
        "environment": {name: getattr(environment, name) for name in ("ready", "message", "run")},
        "device": device(),
        "active": active.id if active else None,
        "queue": {
            name: value for name, value in context.worker.queue().to_dict().items() if name in ("order", "paused")
        },
        "runs_folder": str(context.worker.root),
        "adapter_folder": str(folders[0]) if folders else "",
        "allow_paths": not call.public,
        "while_training": context.while_training(),
    }


def generating(context: Context, call: Call) -> dict[str, Any]:
    active = context.worker.active() if context.while_training() == ASK else None
    return {"ask": {name: getattr(active, name) for name in ("id", "name", "progress")} if active else None}


def schema(context: Context, call: Call) -> dict[str, Any]:
    return settings.schema()


def presets(context: Context, call: Call) -> list[dict[str, Any]]:
    return [*own(context).all(), *own_presets.built_in().values()]


def own(context: Context) -> OwnPresets:
    return OwnPresets(context.data_folder / "presets")


def save_preset(context: Context, call: Call) -> dict[str, Any]:
    own(context).save(call.path["name"], settings.understood(call["settings"]))
    return {"name": call.path["name"]}


def delete_preset(context: Context, call: Call) -> dict[str, Any]:
    own(context).delete(call.path["name"])
    return {"name": call.path["name"]}


def resolve(context: Context, call: Call) -> dict[str, Any]:
    base = own_presets.configuration(call["preset"], own(context))
    found = settings.resolved(call["settings"], base, call["drop_ignored"], call["steps_per_epoch"])
    config, _ = settings.from_flat(call["settings"], base)
    if not call.public:  # whether a file is there is not for everybody to know
        wrong = {problem["setting"] for problem in found["problems"]}
        found["problems"] += [asdict(p) for p in roots.missing(config) if p.setting not in wrong]
    return found


def checkpoints(context: Context, call: Call) -> list[dict[str, Any]]:
    if context.host:
        entries = [(entry.title, entry.path, entry.loaded) for entry in context.host.checkpoints()]
    else:
        files = _files(context.checkpoint_folders, (".safetensors", ".ckpt"))
        entries = [(str(path.relative_to(folder)), path, False) for folder, path in files]
    there = [entry for entry in entries if entry[1].exists()]  # web UIs keep listing what has been removed
    there.sort(key=lambda entry: (not entry[2], entry[0].lower()))
    return [{"title": title, "path": str(path), "loaded": loaded} for title, path, loaded in there]


def adapters(context: Context, call: Call) -> list[dict[str, Any]]:
    found = []
    for folder, path in _files([*context.adapter_folders(), context.worker.root], (".safetensors",)):
        try:
            stat = path.stat()
        except OSError:  # gone since it was listed
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        found.append({"name": name, "path": str(path), "bytes": stat.st_size, "modified": stat.st_mtime})
    return sorted(found, key=lambda file: -file["modified"])


def _files(folders: Any, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """(folder, file) of every file below `folders` with one of `suffixes`, at most MOST_FILES, each once."""
    seen: set[str] = set()
    for folder in folders:
        for at, below, names in os.walk(folder, followlinks=False):
            below[:] = sorted(name for name in below if not name.startswith(".") and name != "state")
            for name in sorted(names):
                path = os.path.join(at, name)
                if name.lower().endswith(suffixes) and path not in seen:
                    seen.add(path)
                    yield Path(folder), Path(path)
                    if len(seen) >= MOST_FILES:
                        return


def import_files(context: Context, call: Call) -> dict[str, Any]:
    return imported([(file["name"], file["content"]) for file in call["files"]])


ROUTES = (
    Route(
        "GET",
        "/status",
        status,
        "How the program stands.",
        "`version`, `host` (`name`, `title`), `environment` (`ready`, `message`, `run`: the command that mends it), "
        "`device` (`name`, `total_bytes`, `free_bytes`) or null, `active` (a run's id or null), `queue` (as in "
        "GET /queue), `runs_folder`, `adapter_folder`, `allow_paths` (false: paths must lie in the allowed folders), "
        "`while_training` (ask, wait or go on: what generating does meanwhile)",
    ),
    Route(
        "GET",
        "/generating",
        generating,
        "Whether a page asks before it makes an image.",
        "`ask`: the training to ask about (`id`, `name`, `progress` from 0 to 1), or null",
    ),
    Route(
        "GET",
        "/schema",
        schema,
        "Every setting, as in [configuration.md](configuration.md), and the adapter types.",
        "`sections` with their `settings`, `types` (`key`, `title`, `good_for`, `settings`), `families`, `tiers`",
    ),
    Route(
        "GET",
        "/presets",
        presets,
        "Presets, a person's own first.",
        "a list of `name`, `title`, `about`, `base`, `type`, `memory_gb`, `own`, `settings`",
    ),
    Route(
        "PUT",
        "/presets/{name}",
        save_preset,
        "Save an own preset, replacing one of that name.",
        "`name`",
        body=(SETTINGS,),
    ),
    Route("DELETE", "/presets/{name}", delete_preset, "Delete an own preset.", "`name`"),
    Route(
        "POST",
        "/config/resolve",
        resolve,
        "What settings come to: all values, which are used beside the others, what is wrong, what is rarely meant.",
        "`settings` (all), `changed` (those that differ from their default), `toml`, `used` (setting -> whether it has "
        "an effect), `problems` (a list of `setting`, `message`), `remarks`",
        body=(
            Parameter("preset", "text", "preset that the settings are put on", ""),
            SETTINGS,
            Parameter("drop_ignored", "on or off", "set what has no effect back to its default, with a remark", False),
            Parameter(
                "steps_per_epoch",
                "whole number",
                "optimiser steps, for remarks on a budget of epochs; 0: not known",
                0,
                minimum=0,
                maximum=2**31 - 1,
            ),
        ),
    ),
    Route(
        "GET",
        "/checkpoints",
        checkpoints,
        "Base models that the web UI knows, the loaded one first.",
        "a list of `title`, `path`, `loaded`",
    ),
    Route(
        "GET",
        "/adapters",
        adapters,
        "Adapter files in the web UI's folders and the runs folder, the newest first.",
        "a list of `name`, `path`, `bytes`, `modified` (seconds since 1970)",
    ),
    Route(
        "POST",
        "/import",
        import_files,
        "Settings from kohya's TOML or JSON files, or from a configuration of ours.",
        "`settings`, `left_out`, `ignored` and `missing` (sentences on what was not carried over, what had no effect, "
        "and what is still to be set)",
        body=(Parameter("files", "files", "the files' names and content: training file, dataset file, or both"),),
    ),
)
