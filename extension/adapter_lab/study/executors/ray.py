"""Jobs on a Ray cluster (`adapter-lab[ray]`): several machines that share the study's folder, images and base."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import adapter_lab
from adapter_lab.errors import AdapterLabError
from adapter_lab.study.executors import Ended, Job, Tick
from adapter_lab.study.executors.processes import start

WAIT_SECONDS = 0.2
# Variables that decide what a training writes, and so must be the same wherever it runs.
PASSED_ON = ("SOURCE_DATE_EPOCH",)


class RayExecutor:
    """One process per GPU of a cluster, or per core where it has none; Ray decides on which machine.

    `address` is Ray's: "auto" for the cluster this machine belongs to. Every machine needs Adapter Lab's private
    environment at the same place.
    """

    def __init__(self, address: str = "auto") -> None:
        try:
            import ray
        except ImportError as error:
            raise AdapterLabError(
                f"Ray is not installed ({error}); install it into the private environment: pip install "
                '"adapter-lab[ray]".'
            ) from error
        self._ray: Any = ray
        package = str(Path(adapter_lab.__file__).resolve().parents[1])
        # Workers import the function that starts a job's process from this package.
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))}
        variables |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                ignore_reinit_error=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise AdapterLabError(
                f"There is no Ray cluster at {address} ({error}); start one with `ray start --head`."
            ) from error
        resources = ray.cluster_resources()
        self.kind = "cuda" if resources.get("GPU") else "cpu"
        self.slots = int(resources.get("GPU") or resources.get("CPU") or 1)

    def memory_bytes(self) -> int | None:
        """Unknown: the machines may differ."""
        return None

    def map(self, jobs: Iterable[Job], tick: Tick) -> Iterator[Ended]:
        """Run every job, as many at once as the cluster has GPUs, or cores."""
        ray, waiting = self._ray, iter(jobs)
        needs = {"num_gpus": 1, "num_cpus": 0} if self.kind == "cuda" else {"num_cpus": 1}
        # A job that was cut off is resumed by the study, which knows how far it came.
        remote = ray.remote(max_retries=0, **needs)(_run)
        running: dict[Any, Job] = {}
        exhausted = False
        try:
            while running or not exhausted:
                while not exhausted and len(running) < self.slots:
                    job = next(waiting, None)
                    if job is None:
                        exhausted = True
                    else:
                        running[remote.remote(job)] = job
                ready, _ = ray.wait(list(running), timeout=WAIT_SECONDS) if running else ([], [])
                for task in ready:
                    yield self._ended(task, running.pop(task))
                tick()
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def _ended(self, task: Any, job: Job) -> Ended:
        try:
            return Ended(job, self._ray.get(task))
        except Exception as error:  # a worker that died, a machine that is gone
            return Ended(job, 1, f"Ray could not run it: {str(error).strip().splitlines()[0]}")


def _run(job: Job) -> int:
    """Run a job's process to its end on a worker; returns its exit status."""
    return start(job, {}).wait()
