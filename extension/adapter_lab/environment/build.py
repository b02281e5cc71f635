"""Makes or updates the private environment, step by step; a step whose inputs have not changed is not done again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from adapter_lab.environment import host_packages, pip
from adapter_lab.environment.locks import Choice, choose, content_key, pinned
from adapter_lab.environment.machine import HostTorch, gpu, host_torch, lacks_gradio, started_by_web_ui
from adapter_lab.environment.status import (
    ROOT,
    STATUS_FILE,
    Status,
    install_command,
    read_status,
    runtime_folder,
    runtime_python,
    scripts_folder,
    site_packages,
    ui_packages,
)
from adapter_lab.errors import AdapterLabError

REQUIREMENTS = ROOT / "requirements"
TORCH, TORCH_NEEDS = REQUIREMENTS / "torch.txt", REQUIREMENTS / "torch-needs.txt"
MODULES = ("torch", "diffusers", "transformers", "accelerate", "lycoris", "prodigyopt", "safetensors", "tensorboard")
PYTHON = (sys.version_info[0], sys.version_info[1])
POSIX_COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
"""
COMMAND = """import sys

from adapter_lab.cli import main

sys.exit(main())
"""


def say(text: str) -> None:
    """Print a line; where a host collects our output until the end, also put it on the terminal at once."""
    print(f"[Adapter Lab] {text}", flush=True)
    if not sys.stdout.isatty() and started_by_web_ui():
        with contextlib.suppress(OSError), open("CONOUT$" if os.name == "nt" else "/dev/tty", "w") as terminal:
            terminal.write(f"[Adapter Lab] {text}\n")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second installation out of `folder`; the lock goes with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "a+") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AdapterLabError(f"Another installation is at work in {folder}; wait until it has ended.") from None
        yield


class Build:
    """One run of the installation: what is wanted, what is there, and the steps between."""

    def __init__(self, folder: Path, with_tests: bool) -> None:
        self.folder = folder
        self.host: HostTorch | None = host_torch()
        self.choice: Choice = choose(PYTHON, self.host.version if self.host else None)
        self.lock = REQUIREMENTS / self.choice.lock.file
        self.with_tests = with_tests
        self.site = site_packages(folder, PYTHON)
        self.status = read_status(folder)

    def steps(self) -> dict[str, str]:
        """Every step in order, with the key of its inputs."""
        shared = self.choice.share_torch and self.host is not None
        python = f"{PYTHON[0]}.{PYTHON[1]} {getattr(sys, '_base_executable', sys.executable)} {self.folder}"
        torch = json.dumps([*vars(self.host).values()]) if shared and self.host else content_key(TORCH, TORCH_NEEDS)
        keys = {
            "environment": f"{python} {'host' if shared else 'own'} torch",
            "packages": f"{self.lock.name} {content_key(self.lock)}",
            "torch": torch,  # after the packages, of which a torch of our own needs some
            "link": content_key(Path(host_packages.__file__), Path(__file__)),
        }
        if "ui" in self.status.steps or lacks_gradio():
            keys["ui"] = content_key(REQUIREMENTS / "ui.txt")
        if self.with_tests or "test" in self.status.steps:
            keys["test"] = content_key(REQUIREMENTS / "test.txt")
        keys["check"] = content_key(self.lock) + " " + torch
        return keys

    def run(self) -> Status:
        """Do what is missing; raises AdapterLabError, with what is done so far kept and recorded."""
        wanted = self.steps()
        make = {
            "environment": self.make_environment,
            "packages": self.make_packages,
            "torch": self.make_torch,
            "link": self.make_link,
            "ui": self.make_ui,
            "test": self.make_test,
            "check": self.make_check,
        }
        if self.status.ready and self.status.steps == wanted:
            return self.status
        with only_one(self.folder):
            if self.status.steps.get("environment") != wanted["environment"]:
                self.clear()
            elif self.status.unfinished:
                pip.remove_half_installed(self.site)
            self.describe()
            for name, key in wanted.items():
                if self.status.steps.get(name) == key:
                    continue
                self.record(unfinished=name)
                self.status.steps.pop(name, None)
                self.status.steps.pop("check", None)
                make[name]()
                self.status.steps[name] = key
                self.record()
            self.status.ready, self.status.run = True, ""
            self.status.message = f"The private environment in {self.folder} is ready."
            self.status.write(self.folder)
        say(self.status.message)
        return self.status

    def describe(self) -> None:
        self.status.interpreter = sys.executable
        self.status.lock = self.lock.name
        self.status.python_version = sys.version.split()[0]
        self.status.torch_from = "host" if self.choice.share_torch else "own"
        self.status.torch = self.host.version if self.choice.share_torch and self.host else own_torch()
        say(
            f"setting up the private environment in {self.folder} (Python {self.status.python_version}, "
            f"{self.lock.name}, torch {self.status.torch}, {'the host' if self.choice.share_torch else 'its own'}). "
            "Nothing outside of this folder is changed."
        )

    def record(self, unfinished: str = "") -> None:
        self.status.ready, self.status.unfinished = False, unfinished
        self.status.message = "The private environment is not complete."
        self.status.run, self.status.folder = install_command(), str(self.folder)
        self.status.write(self.folder)

    def clear(self) -> None:
        """Empty the folder, if it is ours."""
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / STATUS_FILE).exists():
            raise AdapterLabError(
                f"{self.folder} holds files that are not Adapter Lab's; move them or set ADAPTER_LAB_RUNTIME."
            )
        if self.folder.exists():
            # The status goes last: what is left of an interrupted removal is still known to be ours.
            for entry in sorted(self.folder.iterdir(), key=lambda path: path.name == STATUS_FILE):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.status = Status()

    def make_environment(self) -> None:
        """The bare environment, with pip. Debian's Python without ensurepip gets pip from its own pip."""
        try:
            import venv  # noqa: F401
        except ImportError:
            raise AdapterLabError(
                f"{sys.executable} cannot make environments (it has no venv module); install Python 3.11 or newer "
                f'and run it on "{ROOT / "install.py"}".'
            ) from None
        command = [sys.executable, "-m", "venv"]
        if pip.quiet([*command, str(self.folder)]) == 0:
            return
        pip.run([*command, "--without-pip", str(self.folder)], self.folder)
        pip.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--ignore-installed",
                "--target",
                str(self.site),
                "pip",
            ],
            self.folder,
        )

    def make_torch(self) -> None:
        """The host's torch through a finder (nothing is downloaded), or one of our own."""
        if self.choice.share_torch and self.host is not None:
            shutil.copyfile(host_packages.__file__, self.site / "adapter_lab_host.py")
            values = {name: list(getattr(self.host, name)) for name in ("folders", "modules", "distributions")}
            (self.site / "adapter_lab_host.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
            return
        if self.host is not None:
            oldest = ".".join(map(str, self.choice.lock.torch))
            say(f"this Python's torch {self.host.version} is older than {oldest}: the private environment gets its own")
        pip.install(self.folder, pip.locked(TORCH_NEEDS), say)
        pip.install_torch(self.folder, TORCH, [TORCH_NEEDS, self.lock], gpu(), say)

    def make_packages(self) -> None:
        self.install(self.lock, f"installing the packages of {self.lock.name} (about {self.choice.lock.megabytes} MB)")

    def make_ui(self) -> None:
        """gradio in a folder of its own: it wants other versions of some packages than training does."""
        target = ui_packages(self.folder)
        shutil.rmtree(target, ignore_errors=True)
        self.install(
            REQUIREMENTS / "ui.txt", "installing gradio for `adapter-lab ui` (about 60 MB)", "--target", str(target)
        )

    def make_test(self) -> None:
        self.install(REQUIREMENTS / "test.txt", "installing what the tests need (about 35 MB)")

    def install(self, requirements: Path, announcement: str, *options: str) -> None:
        say(announcement)
        start = time.monotonic()
        pip.install(self.folder, pip.locked(requirements, *options), say)
        say(f"done in {time.monotonic() - start:.0f} s")

    def make_link(self) -> None:
        """Put the package on the environment's path, and the `adapter-lab` command beside its Python."""
        lines = [str(ROOT / "extension")]
        if self.choice.share_torch:
            shutil.copyfile(host_packages.__file__, self.site / "adapter_lab_host.py")
            lines.append("import adapter_lab_host")
        (self.site / "adapter_lab.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        scripts, python = scripts_folder(self.folder), runtime_python(self.folder)
        if os.name == "nt":
            (scripts / "adapter-lab-script.py").write_text(COMMAND, encoding="utf-8")
            (scripts / "adapter-lab.cmd").write_text('@"%~dp0python.exe" "%~dp0adapter-lab-script.py" %*\r\n')
        else:
            command = scripts / "adapter-lab"
            command.write_text(POSIX_COMMAND.format(python=python) + COMMAND, encoding="utf-8")
            command.chmod(0o755)

    def make_check(self) -> None:
        """Import everything once: what cannot be imported is better known now than at the start of a training."""
        code = f"import {', '.join(MODULES)}; print(torch.__version__)"
        done = subprocess.run(
            [str(runtime_python(self.folder)), "-c", code], capture_output=True, text=True, env=pip.clean_environment()
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise AdapterLabError(f"The private environment's packages cannot be imported: {reason}")
        self.status.torch = done.stdout.strip().splitlines()[-1]
        say(f"imports tried: torch {self.status.torch} and the rest load")


def own_torch() -> str:
    return pinned(TORCH, "torch")


def ensure(with_tests: bool = False) -> Status:
    """The private environment, made for the interpreter that runs now or brought up to date.

    On failure the reason is left in the status file too, and AdapterLabError is raised.
    """
    folder = runtime_folder()
    try:
        return Build(folder, with_tests).run()
    except AdapterLabError as error:
        if (folder / STATUS_FILE).exists():
            failed = read_status(folder)
            failed.ready, failed.message, failed.run = False, str(error), install_command()
            failed.write(folder)
        raise


def maker(folder: Path) -> str:
    """The other interpreter that made the environment at `folder`, when it is still there; else nothing.

    Only a web UI makes the environment again for its own interpreter. What a person starts uses the environment that
    is there, through the interpreter it was made for, so that a host's torch stays shared.
    """
    interpreter = read_status(folder).interpreter
    same = interpreter == sys.executable or started_by_web_ui()
    return interpreter if interpreter and not same and Path(interpreter).is_file() else ""
