"""A study on a Ray cluster of two workers writes the files of a local one, bit for bit.

Needs the packages of `requirements/ray.txt`, which `.ci/run` installs into an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adapter_lab.study.analysis.results import load
from adapter_lab.study.executors.local import LocalExecutor
from adapter_lab.study.running.runner import run
from tests.support.study_runs import LOKR, LORA, tiny_study


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two workers with a core each; its address."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--num-cpus", "1"]
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    head = [*command, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    worker = [*command, f"--address=127.0.0.1:{port}"]
    for start in (head, worker):
        subprocess.run(start, check=True, capture_output=True, timeout=120, env=environment)
    yield f"127.0.0.1:{port}"
    import ray

    ray.shutdown()
    subprocess.run([*command[:3], "stop", "--force"], capture_output=True, timeout=120)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "adapters").iterdir()}


@pytest.mark.slow
def test_a_cluster_of_two_workers_gives_the_files_of_this_machine_bit_for_bit(tmp_path, cluster):
    from adapter_lab.study.executors.ray import RayExecutor

    local = tiny_study(tmp_path, LORA, LOKR, budget__amount=2.0, budget__points=1, precision__device="cpu")
    shutil.copytree(local, tmp_path / "cluster" / "study")
    executor = RayExecutor(cluster)
    assert (executor.kind, executor.slots) == ("cpu", 2)
    assert run(tmp_path / "cluster" / "study", executor).finished
    assert run(local, LocalExecutor(["cpu"])).finished
    assert files(tmp_path / "cluster" / "study") == files(local)
    curves = [
        [training.curve.losses for variant in load(folder).variants for training in variant.trainings]
        for folder in (local, tmp_path / "cluster" / "study")
    ]
    assert curves[0] == curves[1]
