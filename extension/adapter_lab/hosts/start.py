"""What happens when a web UI loads or unloads us: hooks and settings in, hooks out."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

from adapter_lab.hosts.console import say
from adapter_lab.hosts.families.detect import detect
from adapter_lab.hosts.families.webui import sampling_step
from adapter_lab.hosts.gpu_handover import GpuHandover
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.loading.infotext import begin_batch, end_batch
from adapter_lab.hosts.loading.loader import Loader
from adapter_lab.hosts.loading.report import FileReport
from adapter_lab.hosts.protocol import Host
from adapter_lab.hosts.settings import Settings, add_options
from adapter_lab.hosts.xyz.axes import Axes

_running: list[tuple[Host, Loader]] = []
_handover: list[GpuHandover] = []
_axes: list[Axes] = []


def running() -> tuple[Host, Loader] | None:
    """The web UI we are installed in, and its loader; None outside of one."""
    return _running[0] if _running else None


def use_handover(handover: GpuHandover) -> None:
    """Have generations ask `handover` before they begin, until the web UI unloads us."""
    _handover[:] = [handover]


def start() -> type | None:
    """Install into the web UI this process is; the class of our script there, or None if this is no web UI."""
    stop()
    host = detect()
    if host is None:
        return None
    shared = importlib.import_module("modules.shared")
    callbacks = importlib.import_module("modules.script_callbacks")
    loader = Loader(Settings(shared.opts), host.name, sampling_step)
    _running.append((host, loader))
    _axes.append(Axes(host, loader))
    callbacks.on_script_unloaded(stop)
    callbacks.on_ui_settings(lambda: add_options(shared, importlib.import_module("gradio")))
    if hasattr(callbacks, "on_before_ui"):  # all scripts are loaded by then, and none has made its page
        callbacks.on_before_ui(_install_axes)
    for message in host.install_loader(loader):
        say(message)
    return script_class(importlib.import_module("modules.scripts"), host, loader)


def axes() -> Axes | None:
    """Our axes in the X/Y/Z plot of the web UI we are installed in; None outside of one."""
    return _axes[0] if _axes else None


def _install_axes() -> None:
    with guarded("adding axes to the X/Y/Z plot"):
        for one in _axes:
            for message in one.install():
                say(message)


def stop() -> None:
    """Undo everything, as "Reload UI" asks for before it loads scripts again."""
    while _axes:
        _axes.pop().remove()
    _handover.clear()
    while _running:
        host, loader = _running.pop()
        host.remove_loader()
        loader.cache.clear()


def script_class(scripts: Any, host: Host, loader: Loader) -> type:
    """Our script: invisible, always on, it writes what was loaded into each image. scripts: `modules.scripts`."""

    class AdapterLab(scripts.Script):
        def title(self) -> str:
            return "Adapter Lab"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def before_process(self, p: Any, *args: Any, **kwargs: Any) -> None:
            for handover in _handover:
                with guarded("waiting for a training"):
                    handover.wait(importlib.import_module("modules.shared").state, bool(getattr(p, "is_api", False)))

        def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
            with guarded("patching what the prompt's adapters are to change"):
                host.settle()  # web UIs activate the prompt's networks just before
            _write(begin_batch, p, loader.reports)

        def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
            _write(end_batch, p, loader.finish)

    return AdapterLab


def _write(how: Callable[[Any, list[FileReport]], None], p: Any, reports: Callable[[], list[FileReport]]) -> None:
    try:
        how(p, reports())
    except Exception:  # a remark is not worth an image
        say(f"could not write into the image's infotext:\n{traceback.format_exc()}")
