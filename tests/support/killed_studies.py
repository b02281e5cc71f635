"""Studies that are killed with SIGKILL at a chosen torch function, wherever in the study that is.

`python killed_studies.py FOLDER N [FOLDER N ...]` forks one process per pair, which runs the study in FOLDER and dies
at the N-th torch function, and prints how each ended. N 0 lets the study run and prints how many functions it called.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from adapter_lab.study.running.runner import run
from tests.support.killed_runs import AtOperation
from tests.support.study_runs import InProcess


def main(arguments: list[str]) -> None:
    """Fork, wait and report."""
    torch.set_num_threads(1)
    for folder, count in zip(arguments[::2], arguments[1::2]):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with AtOperation(int(count)) as mode:
                run(Path(folder), InProcess())
            os.write(writing, str(-mode.left).encode())
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        called = os.read(reading, 100).decode()
        print(f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"called {called}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
