"""What `install.py` does: set up for a host, or set up and run the demo or the tests for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from adapter_lab.environment.build import ensure, maker, say
from adapter_lab.environment.machine import started_by_web_ui
from adapter_lab.environment.pip import clean_environment
from adapter_lab.environment.status import ROOT, install_command, runtime_folder, runtime_python
from adapter_lab.errors import AdapterLabError

# One process more than cores, since many tests wait for trainings and pages of theirs; those take very long, so that
# idle processes take tests from busy ones.
ALL_TESTS = ["-n", str(min(4, (os.cpu_count() or 1) + 1)), "--dist", "worksteal"]
USAGE = """usage: install.py [demo [options] | test [options]]

  (nothing)  make or update the private environment in .runtime
  demo       the same, then train on the toy world and print the comparison; options as in `adapter-lab demo --help`
  test       the same, then run the tests; options go to pytest

environment variables
  ADAPTER_LAB_RUNTIME      folder of the private environment (default: .runtime beside install.py)
  ADAPTER_LAB_LOCK         lock file to use, e.g. runtime-py310.txt (default: the newest that fits)
  ADAPTER_LAB_TORCH_INDEX  further package index to take torch from, where it is not the host's
"""


def main(arguments: list[str]) -> int:
    """Carry the command out; the exit status for the process."""
    name, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if name not in ("", "demo", "test"):
        print(USAGE, end="", file=sys.stderr)
        return 2
    if other := maker(runtime_folder()):
        return call([other, str(ROOT / "install.py"), *arguments])
    if not set_up(with_tests=name == "test"):
        # A web UI starts without us; a person sees that it failed.
        return 0 if started_by_web_ui() else 1
    python = str(runtime_python(runtime_folder()))
    if name == "demo":
        return call([python, "-m", "adapter_lab", "demo", *options])
    if name == "test":
        # All tests: in parallel, one thread each. A choice of tests: as pytest does it, so that --pdb works.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return call([python, "-m", "pytest", *(options or ALL_TESTS)], ROOT)
    return 0


def set_up(with_tests: bool) -> bool:
    """Make or update the private environment; a failure is said and recorded, never raised."""
    try:
        ensure(with_tests)
    except KeyboardInterrupt:
        say(f"interrupted; what is done is kept, go on with: {install_command()}")
        return False
    except (AdapterLabError, OSError) as error:
        say(str(error))
        say(f"training is not available until this has run: {install_command()}")
        return False
    return True


def call(command: list[str], folder: Path | None = None) -> int:
    """Run `command` in the foreground; an interrupt reaches it too, so wait until it has saved and ended."""
    process = subprocess.Popen(command, cwd=folder, env=clean_environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
