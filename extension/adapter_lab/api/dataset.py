"""The images to learn from, and what a run on them would cost: computed in the private environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.responses import Response

from adapter_lab import config_file
from adapter_lab.api import roots
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.catalog import SETTINGS
from adapter_lab.api.context import Context
from adapter_lab.api.errors import BadRequest
from adapter_lab.api.files import tag_of, unchanged
from adapter_lab.api.pictures import picture_file, thumbnail
from adapter_lab.api.route import Route
from adapter_lab.api.settings import understood
from adapter_lab.config import TrainConfig

KEPT_ESTIMATES = 64


def report(context: Context, call: Call) -> Any:
    config = understood(call["settings"])
    roots.check_settings(context, call.public, config)
    data, base = config.dataset, config.base
    if not data.folder and not data.sources:
        raise BadRequest("Choose the folder of images first: dataset.folder is empty.")
    if not data.resolution and not base.checkpoint and base.family == "auto":
        raise BadRequest("Choose a base model or a resolution first: which images go together depends on it.")
    only = TrainConfig(base=base, dataset=data)  # what else is wrong in the form is no concern of the images
    only.run.batch_size = config.run.batch_size
    only.optimizer = replace(only.optimizer, gradient_accumulation=config.optimizer.gradient_accumulation)
    with _written(only) as path:
        return context.worker.external("report", ["report", "--config", path])


def estimate(context: Context, call: Call) -> Any:
    config = understood(call["settings"])
    roots.check_settings(context, call.public, config)
    kind, options = ("estimate", []) if call["memory"] else ("file size", ["--no-memory"])
    # A page that is loaded again asks the same again.
    asked = (kind, config_file.dumps(config, only_changed=True), *map(_state, _read_files(config)))
    if (known := context.estimates.get(asked)) is not None:
        return known
    with _written(config) as path:
        found = context.estimates[asked] = context.worker.external(kind, ["estimate", "--config", path, *options])
    for oldest in list(context.estimates)[:-KEPT_ESTIMATES]:
        context.estimates.pop(oldest, None)
    return found


def _read_files(config: TrainConfig) -> tuple[str, ...]:
    """Files that an estimate reads."""
    return config.base.checkpoint, config.base.vae, config.network.start_from


def _state(path: str) -> tuple[int, int] | None:
    """Size and time of a file, by which a change of it is seen."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


@contextmanager
def _written(config: TrainConfig) -> Iterator[str]:
    """A configuration as a file for a command to read."""
    with tempfile.TemporaryDirectory(prefix="adapter-lab-") as folder:
        path = Path(folder) / "config.toml"
        config_file.write(config, path, only_changed=True)
        yield str(path)


def small_picture(context: Context, call: Call) -> Response:
    path, size = picture_file(call["path"]), call["size"]
    tag = tag_of(path, size)
    return unchanged(call, tag) or Response(
        thumbnail(path, size), media_type="image/webp", headers={"ETag": tag, "Cache-Control": "private, max-age=60"}
    )


ROUTES = (
    Route(
        "POST",
        "/dataset/report",
        report,
        "Report on the folder of images: buckets, captions, tags, what is skipped and why. A newer one ends it.",
        "what `adapter-lab report --json` gives",
        body=(SETTINGS,),
        waits=True,
    ),
    Route(
        "GET",
        "/dataset/thumbnail",
        small_picture,
        "An image made small.",
        "a WebP image",
        query=(
            Parameter("path", "path", "the image's path"),
            Parameter("size", "whole number", "longer side in px", 160, minimum=16, maximum=1024),
        ),
        waits=True,
    ),
    Route(
        "POST",
        "/estimate",
        estimate,
        "Predict file size, parameters and peak memory without training. A newer one ends it.",
        "what `adapter-lab estimate --json` gives",
        body=(SETTINGS, Parameter("memory", "on or off", "also the peak memory, which takes many seconds", True)),
        waits=True,
    ),
)
