"""Adapter Lab's tab and API in a web UI: attached when its server has started, and again after "Reload UI"."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from adapter_lab.api.app import attach
from adapter_lab.api.context import Context
from adapter_lab.environment.status import ROOT
from adapter_lab.hosts.console import say
from adapter_lab.hosts.families.webui import api_credentials, data_folder, import_api, listens_beyond, own_folders
from adapter_lab.hosts.gpu_handover import GpuHandover
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.protocol import Host
from adapter_lab.hosts.settings import Settings
from adapter_lab.hosts.start import running, use_handover
from adapter_lab.worker import Worker

TITLE, ELEMENT = "Adapter Lab", "adapter_lab_tab"
# Kept over "Reload UI": a training goes on meanwhile.
_worker: list[Worker] = []


def register() -> None:
    """Ask the web UI that loads us to show the tab and to say when its server has started."""
    started = running()
    if started is None:
        return
    host, _ = started
    settings = Settings(importlib.import_module("modules.shared").opts)
    callbacks = importlib.import_module("modules.script_callbacks")
    callbacks.on_ui_tabs(tab)
    if hasattr(callbacks, "on_before_ui"):
        callbacks.on_before_ui(before_ui)
    callbacks.on_app_started(lambda demo, app: on_app_started(host, settings, demo, app))


def before_ui() -> None:
    """Shorten the moment in which the web UI breaks if it is asked anything.

    It opens its port, imports its API and then adds it, which fails once a request was answered: a page of ours that
    looks for its web UI again, after a restart, would end the API.
    """
    with guarded("importing the web UI's API"):
        import_api()


def tab() -> list[tuple[Any, str, str]]:
    """What `on_ui_tabs` asks for: our page, its title and the name of its element."""
    return [(importlib.import_module("adapter_lab.ui.tab").build(), TITLE, ELEMENT)]


def on_app_started(host: Host, settings: Settings, demo: Any, app: Any) -> None:
    """Attach the API to the web UI's server. demo: its page, None with --nowebui."""
    with guarded("attaching to the web UI's server"):
        data = (data_folder() or ROOT) / "adapter-lab"
        worker = _worker_for(Path(settings.runs_folder or data / "runs"), host, settings)
        context = Context(
            worker=worker,
            data_folder=data,
            host=host,
            public=listens_beyond,
            folders=lambda: [*own_folders(), *settings.folders],
            names=lambda: settings.names,
            credentials=api_credentials(),
            while_training=lambda: settings.while_training,
            closing=lambda: bool(getattr(getattr(demo, "server", None), "should_exit", False)),
        )
        attach(app, context)


def _worker_for(root: Path, host: Host, settings: Settings) -> Worker:
    if _worker and _worker[0].root != root:
        _worker.pop().close()
    if not _worker:
        root.mkdir(parents=True, exist_ok=True)
        worker = Worker(root, before_start=lambda: _give_gpu())
        _worker.append(worker)
        worker.start_background()
        run = worker.active()
        if run is not None:
            say(f"the training of {run.name} goes on: {run.progress:.0%} done.")
    _handover[:] = [GpuHandover(host, settings, _worker[0].active)]
    use_handover(_handover[0])
    return _worker[0]


_handover: list[GpuHandover] = []


def _give_gpu() -> None:
    for handover in _handover:
        handover.give_gpu()
