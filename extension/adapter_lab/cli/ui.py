"""`adapter-lab ui`: the tab in a page of its own, for those without a web UI."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from adapter_lab.environment.pip import clean_environment
from adapter_lab.environment.status import ROOT, read_status, ui_packages
from adapter_lab.errors import AdapterLabError

PORT = 7861


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `adapter-lab ui`."""
    parser.add_argument("--port", metavar="N", type=int, default=PORT, help=f"port of the page; default: {PORT}")
    parser.add_argument("--listen", action="store_true", help="let other machines of the network reach it")
    parser.add_argument(
        "--runs-folder", metavar="DIR", default="runs", help="folder that holds the run folders; default: runs"
    )
    parser.add_argument(
        "--lora-folder", metavar="DIR", help="folder for finished adapters; default: `adapters/` inside each run folder"
    )
    parser.add_argument(
        "--checkpoints",
        metavar="FOLDER",
        action="append",
        default=[],
        help="folder of base models to choose from, with what is below it; may be given several times",
    )
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        action="append",
        default=[],
        help="with --listen: folder whose images and files the page may use beside the runs folder, that of adapters "
        "and those of base models; may be given several times",
    )


def run(chosen: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    sys.path.insert(0, str(ui_packages(Path(sys.prefix))))
    if importlib.util.find_spec("gradio") is None:
        return _with_host_python(chosen)
    import uvicorn

    host = "0.0.0.0" if chosen.listen else "127.0.0.1"
    _check_port(host, chosen.port)
    app = make_app(chosen)
    # Pages that follow a run hold their connection; what is not done after these seconds is cut off.
    server = uvicorn.Server(uvicorn.Config(app, host, chosen.port, log_level="warning", timeout_graceful_shutdown=3))
    context = app.state.adapter_lab
    context.closing = lambda: server.should_exit
    end = server.handle_exit

    def end_jobs_too(sig: int, frame: Any) -> None:
        # A request that waits for a job would outlast the page. Signals come at any moment, so no lock is taken here.
        threading.Thread(target=context.worker.close, daemon=True).start()
        end(sig, frame)

    server.handle_exit = end_jobs_too  # type: ignore[method-assign]
    print(f"Adapter Lab: http://127.0.0.1:{chosen.port} (Ctrl+C ends the page; a training goes on)", flush=True)
    server.run()
    return 0


def make_app(chosen: argparse.Namespace) -> Any:
    """The FastAPI app with the API and the page; the worker watches runs from now on."""
    from fastapi import FastAPI

    from adapter_lab.api import Context, attach
    from adapter_lab.ui.standalone import attach_page
    from adapter_lab.worker import Worker

    worker = Worker(Path(chosen.runs_folder).expanduser())
    worker.root.mkdir(parents=True, exist_ok=True)
    folders = [_folder("--folder", name) for name in chosen.folder]
    app = FastAPI(title="Adapter Lab", docs_url=None, redoc_url=None)
    context = Context(
        worker=worker,
        data_folder=worker.root,
        public=lambda: chosen.listen,
        folders=lambda: folders,
        checkpoint_folders=[_folder("--checkpoints", name) for name in chosen.checkpoints],
        own_adapter_folders=[_made(chosen.lora_folder)] if chosen.lora_folder else [],
    )
    attach(app, context)
    attach_page(app)
    worker.start_background()
    return app


def _folder(option: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_dir():
        raise AdapterLabError(f"{name} is not a folder; give {option} one that is there.")
    return path


def _made(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdapterLabError(f"{name} cannot be made ({error.strerror}); give another --lora-folder.") from error
    return path


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            raise AdapterLabError(
                f"Port {port} cannot be used, perhaps by another program; choose one with --port."
            ) from None


def _with_host_python(chosen: argparse.Namespace) -> int:
    """The same command with the web UI's Python, whose gradio serves."""
    python = read_status().interpreter
    if not python or Path(python) == Path(sys.executable) or not Path(python).exists():
        raise AdapterLabError(
            f"The page needs gradio, which is not installed here; run {ROOT / 'install.py'} again to get it."
        )
    code = (
        "import importlib.util, sys; sys.path.append(sys.argv.pop(1)); "
        "from adapter_lab.cli import main; sys.exit(main() if importlib.util.find_spec('gradio') else "
        "'adapter-lab: this Python has no gradio: ' + sys.executable)"
    )
    process = subprocess.Popen([python, "-c", code, str(ROOT / "extension"), *sys.argv[1:]], env=clean_environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # reaches it too
            continue
