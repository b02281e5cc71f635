"""What can be done with adapter files: the commands inspect, convert, merge, resize and extract."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response

from adapter_lab.adapters.strength import without_strength
from adapter_lab.api import roots
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.context import Context
from adapter_lab.api.errors import BadRequest, NotFound
from adapter_lab.api.files import send
from adapter_lab.api.route import Route

SUFFIX = ".safetensors"
RANK = (
    Parameter("rank", "whole number", "largest rank", None, minimum=1, maximum=100_000),
    Parameter("conv_rank", "whole number", "largest rank of larger kernels", None, minimum=1, maximum=100_000),
    Parameter("error", "number", "largest error per layer", None),
    Parameter("energy", "number", "share of the squared singular values to keep", None),
)
OUT = (
    Parameter("out", "text", "file to write; a plain name: in the web UI's folder of adapters"),
    Parameter("overwrite", "on or off", "replace a file that is there", False),
)
DTYPE = Parameter("dtype", "text", "number format", "same", ("same", "fp32", "fp16", "bf16"))
BASE = Parameter("base", "path", "checkpoint they were trained on, where one is needed", None)
ADAPTER = Parameter("adapter", "path", "adapter file")

# Command -> what it does, what it takes. Parameters are the command's options by their names.
COMMANDS: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "convert": (
        "Write an adapter file as LoRA, as a difference, or in the form a web UI needs.",
        (
            ADAPTER,
            Parameter("to", "text", "lora, full or same", None, ("lora", "full", "same")),
            Parameter("names", "text", "what layers are called", None, ("ldm", "kohya", "comfy", "diffusers", "peft")),
            Parameter("for", "text", "the web UI", None, ("classic", "a1111", "forge", "reforge", "neo")),
            *RANK,
            BASE,
            DTYPE,
            *OUT,
        ),
    ),
    "merge": (
        "Write several adapter files as one.",
        (
            Parameter("adapter", "paths", "adapter files, FILE or FILE:STRENGTH, in order"),
            Parameter("to", "text", "full: the whole difference", None, ("full",)),
            *RANK,
            BASE,
            DTYPE,
            *OUT,
        ),
    ),
    "resize": ("Write a LoRA file at another rank.", (ADAPTER, *RANK, DTYPE, *OUT)),
    "extract": (
        "Write the difference of two checkpoints as an adapter file.",
        (
            Parameter("base", "path", "checkpoint to start from"),
            Parameter("tuned", "path", "checkpoint to arrive at"),
            Parameter("to", "text", "lora, or full: everything that differs", "lora", ("lora", "full")),
            *RANK,
            Parameter("dtype", "text", "number format", "fp16", ("fp32", "fp16", "bf16")),
            *OUT,
        ),
    ),
}
FILES = ("adapter", "base", "tuned")


def inspect(context: Context, call: Call) -> Any:
    from adapter_lab.hosts.loading.described import described  # torch, which only this route needs

    return described(_there(context, call, call["path"]))


def _command(name: str) -> Callable[[Context, Call], Any]:
    def run(context: Context, call: Call) -> Any:
        out = _out(context, call)
        arguments, files = [name, f"--out={out}"], []
        for option, value in call.values.items():
            if value is None or option in ("out", "overwrite"):
                continue
            if option == "adapter":
                given = value if isinstance(value, list) else [value]
                files = [_there(context, call, entry) for entry in given]
                if not files:
                    raise BadRequest("No adapter file was given: choose at least one.")
                continue
            text = _there(context, call, value) if option in FILES else str(value)
            arguments.append(f"--{option.replace('_', '-')}={text}")
        return context.worker.external(_own(), [*arguments, *files])

    run.__name__ = name
    return run


def _own() -> str:
    """A kind of job of its own: another page's command must not end this one."""
    return f"files {uuid.uuid4()}"


def _there(context: Context, call: Call, text: str) -> str:
    """An existing file that may be read, `FILE` or `FILE:STRENGTH`, as a whole path: it cannot pass for an option."""
    path = without_strength(text)
    if not path or not roots.exists(path):
        raise NotFound(f"{path or 'The file'} is not there: choose another.")
    return os.path.abspath(path) + text[len(path) :]


def _out(context: Context, call: Call) -> str:
    """The file to write; raises BadRequest where it is no adapter file's name or is there already."""
    text = call["out"].strip()
    if not text:
        raise BadRequest("out is empty: name the file to write.")
    path = Path(text if text.lower().endswith(SUFFIX) else text + SUFFIX)
    if not path.is_absolute():
        folders = context.adapter_folders()
        path = (folders[0] if folders else Path.cwd()) / path
    roots.check(context, call.public, path)
    if not roots.exists(path.parent):
        raise NotFound(f"There is no folder {path.parent}: make it, or choose another.")
    if roots.exists(path) and not call["overwrite"]:
        raise BadRequest(f"{path} is there already: choose another name.")
    return os.path.abspath(path)


def download(context: Context, call: Call) -> Response:
    path = Path(call["path"])
    if path.suffix.lower() != SUFFIX or not roots.exists(path):
        raise NotFound(f"{path} is no adapter file that is there.")
    return send(call, path, "application/octet-stream", path.name)


ROUTES = (
    Route(
        "POST",
        "/files/inspect",
        inspect,
        "Show what an adapter file holds.",
        "what `adapter-lab inspect --json` gives",
        body=(Parameter("path", "path", "adapter file"),),
        waits=True,
    ),
    *(
        Route(
            "POST",
            f"/files/{name}",
            _command(name),
            about,
            f"what `adapter-lab {name} --json` gives",
            body=parameters,
            waits=True,
        )
        for name, (about, parameters) in COMMANDS.items()
    ),
    Route(
        "GET",
        "/files/download",
        download,
        "Download an adapter file.",
        "the file",
        query=(Parameter("path", "path", "adapter file"),),
    ),
)
