"""What the X/Y/Z plot of the web UI around us is filled with to compare the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_lab.api.call import Call
from adapter_lab.api.context import Context
from adapter_lab.api.errors import Refused
from adapter_lab.api.route import Route
from adapter_lab.api.runs import known
from adapter_lab.errors import AdapterLabError


def plot(context: Context, call: Call) -> dict[str, Any]:
    from adapter_lab.comparing.sending import run_plot  # imports torch, which the page alone does not need

    known(context, call)
    title = script(context)
    run = context.worker.run(call.path["id"])
    files = [(Path(entry["path"]).stem, entry.get("step")) for entry in run.adapters]
    preview = run.config.get("preview", {})
    try:
        made = run_plot(files, run.prompts or preview.get("prompts", []), [int(preview.get("seed", 1))])
    except AdapterLabError as error:
        raise Refused(str(error)) from None
    return made.to_dict(title)


def script(context: Context) -> str:
    """What the web UI calls its X/Y/Z plot; raises Refused where there is none with our axes."""
    from adapter_lab.hosts.start import axes  # imports torch too

    ours = axes() if context.host is not None else None
    title = ours.title() if ours is not None else None
    if title is None:
        raise Refused("There is no X/Y/Z plot here with Adapter Lab's axes; it is a script of txt2img in a web UI.")
    return title


ROUTES = (
    Route(
        "GET",
        "/runs/{id}/plot",
        plot,
        "What the web UI's X/Y/Z plot is filled with to compare the files of a run.",
        "`prompt`, `seed`, `axes` (label and values of each), `script`, and all of it as an `infotext` for txt2img",
        waits=True,
    ),
)
