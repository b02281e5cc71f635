"""A job as a process, in the same way wherever it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

import adapter_lab
from adapter_lab.study.executors import Job
from adapter_lab.training.interrupt import PARENT

CONSOLE = "console.txt"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What was asked of another process than a training: a launcher's variables would make it wait for others.
FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job's process with further environment variables; raises OSError where that is impossible."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / CONSOLE).open("ab") as console:
        return subprocess.Popen(
            command(job),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**own_environment(job), **environment},
        )


def command(job: Job) -> list[str]:
    """The command line of a job."""
    module = ["-m", "adapter_lab", *job.arguments]
    if job.processes == 1:
        return [sys.executable, *module]
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(job.processes),
    ]
    # Without these accelerate asks for a configuration file, or takes one that it finds.
    return [*launcher, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *module]


def own_environment(job: Job) -> dict[str, str]:
    """The environment of a job: this process's, with this package and the job's threads."""
    found = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    package = str(Path(adapter_lab.__file__).resolve().parents[1])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (package, found.get("PYTHONPATH", ""))))
    if job.threads:
        found |= dict.fromkeys(THREADS, str(job.threads))
    me = psutil.Process()
    # A training whose study is gone would go on unseen; it saves and ends instead.
    found[PARENT] = f"{me.pid}:{me.create_time()}"
    return found
