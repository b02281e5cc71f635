"""pip inside the private environment: what it is told, its log, and what its failures mean to a person."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adapter_lab.environment.locks import pinned, pins
from adapter_lab.environment.status import runtime_folder, runtime_python
from adapter_lab.errors import AdapterLabError

LOG = "install.log"
# These would send packages elsewhere, or let the host's modules into the private Python.
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT")
CUDA_GIGABYTES, CPU_GIGABYTES = 8, 2
# pip names the package and where its file came from on the line below this.
WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES.*\n(\S+) from (\S+)")


def clean_environment() -> dict[str, str]:
    """The process environment for the private Python, without what a host set for its own."""
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    environment["PYTHONNOUSERSITE"] = "1"
    # Where no bytecode is wanted beside the sources, as in many container images, it is kept in our own folder:
    # compiling torch and diffusers at every start takes about 8 s.
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(runtime_folder() / "bytecode"))
    return environment


def quiet(command: list[str]) -> int:
    """Run a command unseen; its exit status."""
    return subprocess.run(command, capture_output=True, env=clean_environment()).returncode


def run(command: list[str], folder: Path, say: Callable[[str], None] | None = None) -> None:
    """Run a command with its output in `folder`'s log; large downloads are said. Raises AdapterLabError on failure."""
    lines: list[str] = []
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=clean_environment(),
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            lines.append(line.strip())
            size = re.search(r"Downloading (\S+) .*?\(([\d.]+) ([MG]B)\)", line)
            if say and size and (size[3] == "GB" or float(size[2]) >= 20):
                say(f"downloading {size[1].rsplit('/', 1)[-1]} ({size[2]} {size[3]})")
        if process.wait() != 0:
            raise AdapterLabError(explain(lines, folder / LOG))


def explain(lines: list[str], log: Path) -> str:
    """What a failed pip means and what to do, from its output."""
    text = "\n".join(lines)
    if "No space left on device" in text or "not enough space" in text.lower():
        return f"The disk that holds {log.parent} is full; free some space and run install.py again."
    if wrong := WRONG_HASH.search(text):
        named = " (builds of torch of one's choice: ADAPTER_LAB_TORCH_INDEX)" if wrong[1].startswith("torch==") else ""
        return (
            f"{wrong[1]} from {wrong[2]} was not installed: it is none of the files whose hashes the lock lists, so it "
            f"is another build or was changed on its way. Look at the indexes and folders in pip's settings{named}, "
            f"then run install.py again (details: {log})."
        )
    broken = (
        "NewConnectionError",
        "ConnectionError",
        "Temporary failure in name resolution",
        "ReadTimeout",
        "ConnectTimeout",
    )
    dropped = ("IncompleteRead", "ProtocolError", "Connection reset", "timed out", "SSLError")
    if any(sign in text for sign in broken + dropped):
        return f"The network broke during a download; what came is kept, run install.py again (details: {log})."
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else (lines or ["no message"])[-1]
    return f"pip could not install the packages: {reason}; run install.py again when that is mended (details: {log})."


def install(folder: Path, arguments: list[str], say: Callable[[str], None]) -> None:
    """`pip install` into the environment at `folder`, from wheels only, since there may be no compiler."""
    fixed = ["--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off"]
    # Python compiles what is imported at its first import; thousands of modules here never are.
    fixed.append("--no-compile")
    command = [str(runtime_python(folder)), "-m", "pip", "install", *fixed, "--only-binary", ":all:", *arguments]
    run(command, folder, say)


def locked(lock: Path, *options: str) -> list[str]:
    """pip's arguments for exactly the files whose hashes `lock` lists."""
    return ["--no-deps", "--require-hashes", *options, "--requirement", str(lock)]


def install_torch(folder: Path, usual: Path, needs: list[Path], gpu: str, say: Callable[[str], None]) -> None:
    """torch of its own: a CPU build where there is no GPU and an index offers one, else the index's usual build.

    ADAPTER_LAB_TORCH_INDEX (or TORCH_INDEX_URL, which web UIs use) names a further index for builds of one's choice.
    `usual` locks the usual build. Of the other builds no hashes can be known here: they are taken as the index that was
    named gives them, with what they need beyond the locks `needs`, which are installed and which they may not change.
    """
    version = pinned(usual, "torch")
    index = os.environ.get("ADAPTER_LAB_TORCH_INDEX") or os.environ.get("TORCH_INDEX_URL") or ""
    # A copy without hashes: pip would ask for those of torch too.
    constraints = folder / "torch-constraints.txt"
    constraints.write_text("\n".join(pin for lock in needs for pin in pins(lock)) + "\n", encoding="utf-8")
    other_build = ["--constraint", str(constraints), *(["--extra-index-url", index] if index else [])]
    if not gpu and sys.platform != "darwin":
        need_space(folder, CPU_GIGABYTES)
        say(f"no GPU found: looking for the CPU build of torch {version} (about 200 MB to download, 1 GB on disk)")
        try:
            return install(folder, [*other_build, f"torch=={version}+cpu"], say)
        except AdapterLabError as error:
            if "No matching distribution found for torch" not in str(error):
                raise
    announce_usual_build(version, gpu, bool(index), say)
    need_space(folder, CUDA_GIGABYTES if sys.platform == "linux" else CPU_GIGABYTES)
    install(folder, [*other_build, f"torch=={version}"] if index else locked(usual), say)


def announce_usual_build(version: str, gpu: str, chosen: bool, say: Callable[[str], None]) -> None:
    size = (
        "about 3 GB to download, 8 GB on disk" if sys.platform == "linux" else "about 200 MB to download, 1 GB on disk"
    )
    say(f"installing torch {version} ({size}, less if the index in use offers a smaller build)")
    if chosen:
        return
    if sys.platform == "win32" and gpu:
        say("on Windows this is a CPU build: to use the GPU set ADAPTER_LAB_TORCH_INDEX to the index of CUDA builds")
    elif gpu == "amd":
        say("this is a CUDA build: to use the AMD GPU set ADAPTER_LAB_TORCH_INDEX to the index of ROCm builds")
    elif not gpu and sys.platform == "linux":
        say("to save space without a GPU, set ADAPTER_LAB_TORCH_INDEX to the index of CPU builds and start again")


def need_space(folder: Path, gigabytes: int) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise AdapterLabError(
            f"torch needs about {gigabytes} GB in {folder} and {free:.1f} GB are free; free some space, or set "
            "ADAPTER_LAB_RUNTIME to a folder on another disk, and run install.py again."
        )


def remove_half_installed(site: Path) -> None:
    """Forget distributions whose installation was cut off, so that pip installs them again instead of trusting them."""
    for information in site.glob("*.dist-info"):
        record = information / "RECORD"
        if not record.is_file() or any_missing(site, record):
            shutil.rmtree(information)


def any_missing(site: Path, record: Path) -> bool:
    """Whether a file of the RECORD is absent or has another size."""
    with open(record, newline="", encoding="utf-8") as file:
        for name, _, size in csv.reader(file):
            path = site / name
            if name.endswith(".pyc"):
                continue
            if not path.is_file() or (size and path.stat().st_size != int(size)):
                return True
    return False
