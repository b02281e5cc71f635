"""Where the private environment lies, and what its last installation left there (`STATUS.json`)."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from adapter_lab import __version__, files, jsonio

ROOT = Path(__file__).resolve().parents[3]
STATUS_FILE = "STATUS.json"
NOT_SET_UP = "Adapter Lab's private environment is not set up yet."


def runtime_folder() -> Path:
    """The private environment's folder: `.runtime` in the extension, or what ADAPTER_LAB_RUNTIME names."""
    return Path(os.environ.get("ADAPTER_LAB_RUNTIME") or ROOT / ".runtime").absolute()


def scripts_folder(folder: Path) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin")


def runtime_python(folder: Path) -> Path:
    """The interpreter of the private environment at `folder`."""
    return scripts_folder(folder) / ("python.exe" if os.name == "nt" else "python")


def site_packages(folder: Path, version: tuple[int, int]) -> Path:
    """Where the environment of Python `version` at `folder` keeps its packages."""
    if os.name == "nt":
        return folder / "Lib" / "site-packages"
    return folder / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"


def ui_packages(folder: Path) -> Path:
    """Where the environment at `folder` keeps gradio for `adapter-lab ui`, apart from the packages of training."""
    return folder / "ui"


def install_command() -> str:
    """What a person types to set the environment up or mend it, with the interpreter that runs now."""
    return f'"{sys.executable}" "{ROOT / "install.py"}"'


@dataclass
class Status:
    """What the last installation left behind.

    `ready`: training can start. `message`: one sentence for a person. `run`: the command that mends it, empty when
    ready. `interpreter`: the Python that made it, a host's or a person's. `steps`: what was done, step name to a key
    of its inputs. `unfinished`: the step that was running when this was written, so that an installation which was
    killed is known as such.
    """

    ready: bool = False
    message: str = NOT_SET_UP
    run: str = ""
    folder: str = ""
    interpreter: str = ""
    python_version: str = ""
    lock: str = ""
    torch: str = ""
    torch_from: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    unfinished: str = ""

    def write(self, folder: Path) -> None:
        """Replace `folder`'s status file in one move."""
        files.write_json(folder / STATUS_FILE, asdict(self), indent=2)


def read_status(folder: Path | None = None) -> Status:
    """The status of the private environment; a missing or unreadable file is one that is not set up."""
    folder = folder or runtime_folder()
    try:
        status = jsonio.typed(Status, jsonio.read(folder / STATUS_FILE))
    except (OSError, ValueError):
        return Status(run=install_command())
    if status.ready and not runtime_python(folder).exists():
        return Status(run=install_command())
    return status


def notice() -> str:
    """What a host's console says at its start: where to train, or what to run before."""
    status = read_status()
    if not status.ready:
        return f"{status.message} Until this has run, nothing can be trained: {status.run}"
    return f"{__version__} is ready: train in the tab Adapter Lab."
