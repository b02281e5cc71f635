"""Runs and their queue: start, look at, steer, delete."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response

from adapter_lab.api import own_presets, roots
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.catalog import SETTINGS, own
from adapter_lab.api.context import Context
from adapter_lab.api.errors import BadRequest, NotFound, Refused
from adapter_lab.api.files import send
from adapter_lab.api.pictures import MEDIA, picture_file
from adapter_lab.api.route import Route
from adapter_lab.api.settings import from_flat
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.validation import Problem, problems

MOST_LINES, MOST_POINTS = 5000, 5000


def start(context: Context, call: Call) -> dict[str, Any]:
    config = _checked(context, call)
    folders = context.adapter_folders()
    if not config.run.output_folder and folders:
        config.run.output_folder = str(folders[0] / config.run.name)
    return {"id": context.worker.submit(config, call["when"])}


def _checked(context: Context, call: Call) -> TrainConfig:
    """The settings as a configuration that can be run; raises BadRequest with all that is wrong."""
    base = own_presets.configuration(call["preset"], own(context))
    config, found = from_flat(call["settings"], base)
    known = {problem.setting for problem in found}
    found += [problem for problem in problems(config) if problem.setting not in known]
    if not found:
        roots.check_settings(context, call.public, config)
        found = roots.missing(config)
    if found:
        raise BadRequest(in_words(found), found)
    roots.make_absolute(config)
    return config


def in_words(found: list[Problem]) -> str:
    """What is wrong, in one text."""
    if len(found) == 1:
        return found[0].message
    return f"{len(found)} settings need a change: " + " ".join(problem.message for problem in found)


def everything(context: Context, call: Call) -> list[dict[str, Any]]:
    return [run.to_dict() for run in context.worker.runs()]


def known(context: Context, call: Call) -> RunFolder:
    """The folder of the run that the address names; raises NotFound."""
    try:
        if not context.worker.is_study(call.path["id"]):
            return context.worker.folder(call.path["id"])
        raise NotFound(f"{call.path['id']} is a study, not a run.")
    except NotFound:
        raise
    except AdapterLabError as error:
        raise NotFound(str(error)) from None
    except (OSError, ValueError):  # longer than names may be, or no name at all
        raise NotFound("There is no run of such a name.") from None


def one(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    return context.worker.run(call.path["id"]).to_dict()


def delete(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    context.worker.delete(call.path["id"], call["adapters"])
    return {"id": call.path["id"]}


def series(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    return context.worker.series(call.path["id"], call["points"])


def log(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    return {"text": context.worker.log(call.path["id"], call["lines"])}


def diff(context: Context, call: Call) -> list[dict[str, Any]]:
    known(context, call)
    known(context, Call({"id": call.path["other"]}))
    return context.worker.diff(call.path["id"], call.path["other"])


def sample(context: Context, call: Call) -> Response:
    folder = known(context, call).samples
    path = folder / call.path["file"]
    if not roots.inside(path, [folder]):
        raise NotFound(f"The run has no sample {call.path['file']}.")
    return send(call, picture_file(path), MEDIA[path.suffix.lower()])


def picture(context: Context, call: Call) -> Response:
    """An image that the run learns from, or one in its folder."""
    run = known(context, call)
    data = context.worker.run(call.path["id"]).config.get("dataset", {})
    sources = [source.get("folder") for source in data.get("sources", [])]
    folders = [folder for folder in (data.get("folder"), data.get("regularisation_folder"), *sources) if folder]
    if not roots.inside(call["path"], [run.path, *folders]):
        raise Refused(f"{call['path']} is not one of the run's images.")
    path = picture_file(call["path"])
    return send(call, path, MEDIA[path.suffix.lower()])


def _steer(what: str) -> Callable[[Context, Call], dict[str, Any]]:
    def steer(context: Context, call: Call) -> dict[str, Any]:
        known(context, call)
        getattr(context.worker, what)(call.path["id"], *call.values.values())
        return {"id": call.path["id"]}

    steer.__name__ = what
    return steer


def resume(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    config, found = from_flat(call["settings"])
    if found:
        raise BadRequest(in_words(found), found)
    roots.check_settings(context, call.public, config)
    # As converted: a whole number given for one with a fraction would look like a change.
    changes = {path: getattr(getattr(config, path.split(".")[0]), path.split(".")[1]) for path in call["settings"]}
    context.worker.resume(call.path["id"], changes, call["when"], call["accept_pictures"])
    return {"id": call.path["id"]}


def open_folder(context: Context, call: Call) -> dict[str, Any]:
    return open_folder_of(known(context, call).path, call)


def open_folder_of(folder: Path, call: Call) -> dict[str, Any]:
    """Show a folder to the person; raises Refused where they sit at another machine."""
    if call.public:
        raise Refused("Folders open on the machine that the web UI runs on, so only from there.")
    show(folder)
    return {"id": call.path["id"]}


def show(folder: Path) -> None:
    """Open a folder in the system's file browser; raises AdapterLabError where there is none."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
        else:
            program = "open" if sys.platform == "darwin" else "xdg-open"
            quiet = subprocess.DEVNULL
            subprocess.Popen([program, str(folder)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError as error:
        raise AdapterLabError(f"No file browser could be started; the folder is {folder}.") from error


def queue(context: Context, call: Call) -> dict[str, Any]:
    return context.worker.queue().to_dict()


def change_queue(context: Context, call: Call) -> dict[str, Any]:
    if call["order"] is not None:
        context.worker.reorder(call["order"])
    if call["paused"] is not None:
        context.worker.pause(call["paused"])
    return queue(context, call)


def unqueue(context: Context, call: Call) -> dict[str, Any]:
    run_id = call.path["id"]
    if run_id not in context.worker.queue().order:  # a study may wait too
        known(context, call)
    context.worker.remove(run_id)
    return queue(context, call)


WHEN = Parameter("when", "text", "now, or queue: after the runs that wait", "queue", ("now", "queue"))
QUEUE = "`order` (ids, the next first), `paused`, `active` (ids), `message`"

ROUTES = (
    Route(
        "POST",
        "/runs",
        start,
        "Start a training, or add it to the queue.",
        "`id`: the run's id, which is its folder's name",
        body=(Parameter("preset", "text", "preset that the settings are put on", ""), SETTINGS, WHEN),
    ),
    Route(
        "GET",
        "/runs",
        everything,
        "Every run, the newest first.",
        "a list of `id`, `folder`, `name`, `algo`, `state` (queued, starting, running, stopping, finished, stopped, "
        "failed, killed), `step`, `total_steps`, `progress` (0 to 1), `started_at`, `ended_at`, `seconds_per_step`, "
        "`eta_seconds`, `loss` (smoothed), `memory_bytes`, `peak_bytes`, `thumbnail` (a sample file), `message`, "
        "`adapters` (`path`, `name`, `step`, `bytes`), `tag`, `warnings`",
    ),
    Route(
        "GET",
        "/runs/{id}",
        one,
        "One run in full.",
        "the same and `config`, `samples` (`step`, `file`, `prompt`, `index`), `prompts`, `pictures` (learned worst "
        "first), `messages`, `validation`, `report` on the images, `preparing`, `saved_state_step`, `device`, `log`, "
        "`offset` in the event log",
    ),
    Route(
        "DELETE",
        "/runs/{id}",
        delete,
        "Delete a run's folder; refused while it trains.",
        "`id`",
        query=(Parameter("adapters", "on or off", "delete its adapter files too", False),),
    ),
    Route(
        "GET",
        "/runs/{id}/series",
        series,
        "The run's numbers for charts, in bins that keep spikes.",
        "arrays by name, each bin's least, greatest and mean value; `validation`; `offset` in the event log",
        query=(Parameter("points", "whole number", "most bins", 1000, minimum=2, maximum=MOST_POINTS),),
    ),
    Route(
        "GET",
        "/runs/{id}/log",
        log,
        "The end of the run's log.",
        "`text`",
        query=(Parameter("lines", "whole number", "most lines", 200, minimum=1, maximum=MOST_LINES),),
    ),
    Route(
        "GET",
        "/runs/{id}/diff/{other}",
        diff,
        "The settings in which two runs differ.",
        "a list of `setting`, `left`, `right`",
    ),
    Route("GET", "/runs/{id}/samples/{file}", sample, "A sample image.", "the image"),
    Route(
        "GET",
        "/runs/{id}/picture",
        picture,
        "One of the images that the run learns from.",
        "the image",
        query=(Parameter("path", "path", "the image's path, in the run's folders of images"),),
    ),
    Route(
        "POST",
        "/runs/{id}/stop",
        _steer("stop"),
        "End a run.",
        "`id`",
        body=(Parameter("how", "text", "save: after saving; now: at once, without", "save", ("save", "now")),),
    ),
    Route("POST", "/runs/{id}/save", _steer("save"), "Save an adapter and a state now.", "`id`"),
    Route("POST", "/runs/{id}/sample", _steer("sample"), "Make sample images now.", "`id`"),
    Route(
        "PUT",
        "/runs/{id}/prompts",
        _steer("set_prompts"),
        "Give a run other sample prompts.",
        "`id`",
        body=(Parameter("prompts", "texts", "the prompts"),),
    ),
    Route(
        "POST",
        "/runs/{id}/resume",
        resume,
        "Go on with a run that ended, longer if asked to.",
        "`id`",
        body=(
            Parameter("settings", "settings", "settings to change, such as run.steps, by path", {}),
            WHEN,
            Parameter("accept_pictures", "on or off", "go on although images or captions were changed", False),
        ),
    ),
    Route(
        "POST",
        "/runs/{id}/open-folder",
        open_folder,
        "Open the run's folder in the file browser of the machine that the web UI runs on.",
        "`id`",
    ),
    Route("GET", "/queue", queue, "The queue.", QUEUE),
    Route(
        "PUT",
        "/queue",
        change_queue,
        "Reorder the queue, pause it or let it go on.",
        QUEUE,
        body=(
            Parameter("order", "texts", "ids in the order wanted; those not named follow", None),
            Parameter("paused", "on or off", "whether no further run is started", None),
        ),
    ),
    Route("DELETE", "/queue/{id}", unqueue, "Take a run or study out of the queue; its folder stays.", QUEUE),
)
