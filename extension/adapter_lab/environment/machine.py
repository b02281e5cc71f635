"""What the machine and the host's Python offer: torch, a GPU, a web UI around us."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from adapter_lab.environment.status import ui_packages

# What the worker may use of the host's beside torch: optimisers on the GPU are built for one torch and one CUDA.
SHARED = ("torch", "bitsandbytes")


@dataclass(frozen=True)
class HostTorch:
    """The torch of the interpreter that runs now, and which modules and distributions come with it."""

    version: str
    folders: tuple[str, ...]
    modules: tuple[str, ...]
    distributions: tuple[str, ...]


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(package: Distribution) -> list[str]:
    """Names of what `package` needs, extras left out."""
    lines = [line for line in package.requires or [] if "extra ==" not in line]
    return [canonical(match[0]) for line in lines if (match := re.match(r"[A-Za-z0-9._-]+", line))]


def closure(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The installed distributions among `names` and all they need, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [canonical(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # a requirement of another platform
        waiting += requirement_names(found[name])
    return found


def top_level_modules(package: Distribution) -> set[str]:
    """Names that `package` makes importable, from its list of files."""
    names = set()
    for file in package.files or []:
        first = file.parts[0]
        if len(file.parts) > 1 and re.fullmatch(r"\w+", first) and first != "__pycache__":
            names.add(first)
        elif len(file.parts) == 1 and (match := re.fullmatch(r"(\w+)(\.[\w-]+)?\.(py|so|pyd)", first)):
            names.add(match[1])
    return names or {canonical(package.metadata["Name"]).replace("-", "_")}


def host_torch() -> HostTorch | None:
    """torch as the running interpreter sees it, without importing it; None where there is none."""
    packages = closure(SHARED)
    if "torch" not in packages:
        return None
    modules: set[str] = set()
    for package in packages.values():
        modules |= top_level_modules(package)
    folders = {str(Path(str(package.locate_file(""))).resolve()) for package in packages.values()}
    return HostTorch(packages["torch"].version, tuple(sorted(folders)), tuple(sorted(modules)), tuple(sorted(packages)))


def gpu() -> str:
    """The GPU's maker, "nvidia", "amd" or "", by what the driver left on the machine; asks no library."""
    system = Path(os.environ.get("SYSTEMROOT", "C:\\Windows")) / "System32"
    if (
        shutil.which("nvidia-smi")
        or Path("/dev/nvidia0").exists()
        or (os.name == "nt" and (system / "nvcuda.dll").exists())
    ):
        return "nvidia"
    return "amd" if Path("/dev/kfd").exists() else ""


def started_by_web_ui() -> bool:
    """Whether a web UI runs us: it puts its own folder on PYTHONPATH for extensions' install.py."""
    folders = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    starts = ("launch.py", "webui.py")
    return any(
        (folder / "modules").is_dir() and any((folder / name).is_file() for name in starts) for folder in folders
    )


def lacks_gradio() -> bool:
    """Whether the interpreter that runs now has no gradio to serve `adapter-lab ui` with; a web UI's always has."""
    return not started_by_web_ui() and find_spec("gradio") is None and not ui_packages(Path(sys.prefix)).is_dir()
