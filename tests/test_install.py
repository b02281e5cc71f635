"""install.py from end to end, in a copy of the extension, with fake hosts and tiny wheels instead of a network."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapter_lab.environment.status import ROOT, read_status, runtime_python, scripts_folder, site_packages
from tests.support.wheels import pin, put_into, write_wheel

PYTHON = (sys.version_info[0], sys.version_info[1])
NEWEST = "runtime-py311.txt" if PYTHON >= (3, 11) else "runtime-py310.txt"
PACKAGES = {
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "lycoris": "4.1.3",
    "prodigyopt": "1.1.2",
    "safetensors": "0.8.0",
    "tensorboard": "2.21.0",
}


@dataclass
class Installation:
    """A copy of the extension with small lock files, a folder of wheels for a network, and a Python to run it."""

    folder: Path
    wheels: Path
    python: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def runtime(self) -> Path:
        return self.folder / ".runtime"

    def call(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        foreign = ("PIP_", "ADAPTER_LAB_", "PYTHON", "TORCH_INDEX_URL")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        environment |= self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=300)

    def run(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.call(self.python, str(self.folder / "install.py"), *arguments, folder=folder)

    def inside(self, code: str) -> str:
        """What `code` prints in the private environment, or the last line of its error."""
        done = self.call(str(runtime_python(self.runtime)), "-c", code)
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    def wheel(self, name: str) -> Path:
        return next(self.wheels.glob(f"{name}-*.whl"))

    def status(self) -> dict[str, object]:
        values: dict[str, object] = json.loads((self.runtime / "STATUS.json").read_text())
        return values


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    folder = tmp_path / "the extension"  # with a space, as people have
    package = folder / "extension" / "adapter_lab"
    shutil.copytree(ROOT / "extension" / "adapter_lab" / "environment", package / "environment")
    for module in (ROOT / "extension" / "adapter_lab").glob("*.py"):
        shutil.copyfile(module, package / module.name)
    (package / "cli.py").write_text("import sys\n\n\ndef main():\n    print('ran', sys.argv[1:])\n    return 7\n")
    (package / "__main__.py").write_text("import sys\nfrom adapter_lab.cli import main\nsys.exit(main())\n")
    shutil.copyfile(ROOT / "install.py", folder / "install.py")
    requirements, wheels = folder / "requirements", tmp_path / "wheels"
    requirements.mkdir()
    locks = {
        NEWEST: PACKAGES,
        "torch-needs.txt": {"sympy": "1.14.0"},
        "test.txt": {"pytest": "9.2.0"},
        "ui.txt": {"gradio": "6.31.0"},
    }
    for file, versions in locks.items():
        (requirements / file).write_text("".join(pin(write_wheel(wheels, *package)) for package in versions.items()))
    (requirements / "torch.txt").write_text(pin(write_wheel(wheels, "torch", "2.13.0+cpu", ("sympy",))))
    return Installation(folder, wheels, bare_python(tmp_path / "python"))


def bare_python(folder: Path) -> str:
    """A Python with nothing installed; what runs the tests may have a torch to share."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(runtime_python(folder))


def make_host(installation: Installation, torch: str) -> Path:
    """A web UI's venv with packages of its own, which from now on runs install.py as hosts do; its site-packages."""
    host = installation.folder.parent / "webui"
    (host / "modules").mkdir(parents=True)
    (host / "launch.py").touch()
    installation.python = bare_python(host / "venv")
    site = site_packages(host / "venv", PYTHON)
    put_into(site, "torch", torch, ("sympy",))
    put_into(site, "sympy", "1.13.1")
    put_into(site, "transformers", "4.30.2")
    put_into(site, "scipy", "1.11.0")
    installation.environment = {"PYTHONPATH": str(host)}
    return site


def relock(installation: Installation, before: str, after: str) -> None:
    """Another pin in the newest lock, as an update of the extension brings."""
    lock = installation.folder / "requirements" / NEWEST
    assert before in lock.read_text()
    lock.write_text(lock.read_text().replace(before, after))


def fingerprint(folder: Path) -> dict[str, str]:
    """Relative path -> content hash of every file, without Python's own caches."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_host_shares_its_torch_keeps_its_packages_and_lends_nothing_else(installation: Installation) -> None:
    site = make_host(installation, "2.6.0+cu124")
    before = fingerprint(site.parent)
    done = installation.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprint(site.parent) == before
    assert read_status(installation.runtime).ready
    assert installation.status()["torch_from"] == "host"
    own = site_packages(installation.runtime, PYTHON)
    assert not (own / "torch").exists()
    script = "import torch, transformers, sympy, importlib.metadata as m\n"
    script += "print(torch.__version__, transformers.__version__, sympy.__version__, m.version('torch'))"
    assert installation.inside(script) == "2.6.0+cu124 5.23.0 1.13.1 2.6.0+cu124"
    assert installation.inside("import scipy") == "ModuleNotFoundError: No module named 'scipy'"


def test_a_second_run_does_nothing_and_an_updated_lock_only_what_changed(installation: Installation) -> None:
    make_host(installation, "2.6.0+cu124")
    installation.run()
    log = (installation.runtime / "install.log").read_text()
    again = installation.run()
    assert (again.returncode, again.stdout) == (0, "")
    assert (installation.runtime / "install.log").read_text() == log
    relock(
        installation, pin(installation.wheel("diffusers")), pin(write_wheel(installation.wheels, "diffusers", "0.43.0"))
    )
    created = (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns
    assert installation.run().returncode == 0
    assert installation.inside("import diffusers; print(diffusers.__version__)") == "0.43.0"
    assert (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns == created


def test_a_host_with_an_old_torch_is_left_alone_and_the_environment_gets_its_own(installation: Installation) -> None:
    site = make_host(installation, "2.1.2+cu121")
    before = fingerprint(site.parent)
    done = installation.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprint(site.parent) == before
    assert "torch 2.1.2+cu121 is older than" in done.stdout
    assert "to download" in done.stdout
    assert installation.inside("import torch; print(torch.__version__)") == "2.13.0+cpu"


def test_an_environment_without_hashes_in_its_locks_is_brought_up_to_date_in_place(installation: Installation) -> None:
    """As a release before hashes made it: torch first, and every file of another content."""
    installation.run()
    values = installation.status()
    steps = {name: key[:-16] + "0" * 16 for name, key in dict(values["steps"]).items()}  # type: ignore[call-overload]
    steps["environment"] = dict(values["steps"])["environment"]  # type: ignore[call-overload]
    (installation.runtime / "STATUS.json").write_text(json.dumps(values | {"steps": steps}))
    created = (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns
    for wheel in installation.wheels.iterdir():
        if "gradio" not in wheel.name:  # the only one whose folder is made again
            wheel.unlink()
    done = installation.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns == created


def test_a_file_whose_hash_is_not_in_the_lock_is_not_installed(installation: Installation) -> None:
    with open(installation.wheel("accelerate"), "ab") as wheel:
        wheel.write(b"changed on its way")
    done = installation.run()
    assert done.returncode == 1
    message = read_status(installation.runtime).message
    assert message in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert re.match(
        r"accelerate==1\.15\.0 from file:\S+\.whl was not installed: it is none of the files whose", message
    )
    assert not list(site_packages(installation.runtime, PYTHON).glob("accelerate*"))


def test_a_failed_download_lets_the_host_start_says_what_to_run_and_is_resumed(installation: Installation) -> None:
    make_host(installation, "2.6.0+cu124")
    wheel = installation.wheel("accelerate")
    hidden = wheel.rename(wheel.with_suffix(".hidden"))
    failed = installation.run()
    assert failed.returncode == 0
    assert "accelerate" in failed.stdout and "install.py" in failed.stdout
    status = read_status(installation.runtime)
    assert not status.ready
    assert "accelerate" in status.message
    assert status.run == f'"{installation.python}" "{installation.folder / "install.py"}"'
    hidden.rename(wheel)
    created = (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns
    installation.environment = {}  # as the person does who types the command
    assert installation.run().returncode == 0
    assert read_status(installation.runtime).ready
    assert (installation.runtime / "pyvenv.cfg").stat().st_mtime_ns == created


def test_an_installation_that_was_killed_is_repaired(installation: Installation) -> None:
    make_host(installation, "2.6.0+cu124")
    installation.run()
    own = site_packages(installation.runtime, PYTHON)
    (own / "diffusers" / "__init__.py").write_text("")
    values = installation.status()
    steps = {name: key for name, key in dict(values["steps"]).items() if name not in ("packages", "check")}  # type: ignore[call-overload]
    values |= {"ready": False, "unfinished": "packages", "steps": steps}
    (installation.runtime / "STATUS.json").write_text(json.dumps(values))
    assert installation.run().returncode == 0
    assert installation.inside("import diffusers; print(diffusers.__version__)") == "0.42.1"


def test_packages_that_cannot_be_imported_are_reported(installation: Installation) -> None:
    before = pin(installation.wheel("lycoris"))
    relock(installation, before, pin(write_wheel(installation.wheels, "lycoris", "4.1.3", module="other")))
    done = installation.run()
    assert done.returncode == 1
    assert "No module named 'lycoris'" in done.stdout
    assert not read_status(installation.runtime).ready


def test_demo_and_test_set_everything_up_and_pass_options_and_exit_status_on(
    installation: Installation, tmp_path: Path
) -> None:
    tests = installation.run("test", "-k", "a name")
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert tests.stdout.splitlines()[-1] == f"pytest {installation.folder} ['-k', 'a name']"
    log = (installation.runtime / "install.log").read_text()
    calls = [line for line in log.splitlines() if line.startswith("$") and " pip install " in line]
    without = [line.split()[-1] for line in calls if "--require-hashes" not in line]
    assert len(calls) >= 4 and without in ([], ["torch==2.13.0+cpu"])  # with a GPU torch comes by its hashes too
    demo = installation.run("demo", "--steps", "5", folder=tmp_path)
    assert demo.returncode == 7
    assert demo.stdout.splitlines() == ["ran ['demo', '--steps', '5']"]
    command = scripts_folder(installation.runtime) / ("adapter-lab.cmd" if os.name == "nt" else "adapter-lab")
    done = installation.call(str(command), "inspect", "a b")
    assert (done.stdout.strip(), done.returncode) == ("ran ['inspect', 'a b']", 7)


def test_a_person_uses_the_environment_that_a_host_made(installation: Installation) -> None:
    make_host(installation, "2.6.0+cu124")
    installation.run()
    installation.environment, installation.python = {}, bare_python(installation.folder.parent / "another")
    done = installation.run("demo")
    assert done.returncode == 7
    assert installation.status()["torch_from"] == "host"


def test_a_folder_with_other_files_is_not_emptied(installation: Installation, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("text")
    installation.environment["ADAPTER_LAB_RUNTIME"] = str(mine)
    done = installation.run()
    assert done.returncode == 1
    assert "holds files that are not Adapter Lab's" in done.stdout
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_an_unknown_command_is_refused_with_the_usage(installation: Installation) -> None:
    done = installation.run("tset")
    assert done.returncode == 2
    assert "usage: install.py" in done.stderr
    assert not installation.runtime.exists()


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["demo"], 1)])
def test_an_old_python_gets_a_sentence_and_changes_nothing(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (ROOT / "install.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 4))  # an old Python can read the file as far as the sentence
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "install.py"), run_name="__main__")
    assert stop.value.code == code
    assert "needs Python 3.10 or newer; this is Python 3.8" in capsys.readouterr().err
