"""Jobs on this machine: one at a time per device."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import psutil
import torch

from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.processes import end_trees
from adapter_lab.study.executors import Ended, Job, Tick
from adapter_lab.study.executors.processes import start

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


def default_devices() -> list[str]:
    """Every CUDA device of this machine, else its best one."""
    if torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["mps" if torch.backends.mps.is_available() else "cpu"]


class LocalExecutor:
    """One process per device, and no other device visible to it; a device named twice has two at a time.

    `together`: how many devices accelerate gives to each training.
    """

    def __init__(self, devices: Sequence[str] = (), together: int = 1) -> None:
        self.devices = list(devices) or default_devices()
        for device in self.devices:
            kind, _, index = device.partition(":")
            if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
                raise AdapterLabError(f"{device!r} is no device; name cpu, mps, cuda:0, cuda:1 and so on.")
        self.kind = self.devices[0].partition(":")[0]
        self.slots = self._slots(together)

    def _slots(self, together: int) -> list[dict[str, str]]:
        """Environment variables of each place for a job."""
        if together == 1 or self.kind != "cuda":
            return [visible(device) for device in self.devices]
        groups = [self.devices[first : first + together] for first in range(0, len(self.devices), together)]
        if len(groups[-1]) < together:
            groups.pop()
        if not groups:
            raise AdapterLabError(
                f"{together} GPUs per training are asked for, but only {len(self.devices)} are named."
            )
        return [{VISIBLE: ",".join(visible(device)[VISIBLE] for device in group)} for group in groups]

    def memory_bytes(self) -> int | None:
        """Free memory of the smallest of its CUDA devices; None without any."""
        if self.kind != "cuda":
            return None
        found = [_free_bytes(visible(device)) for device in dict.fromkeys(self.devices)]
        return min((size for size in found if size is not None), default=None)

    def map(self, jobs: Iterable[Job], tick: Tick) -> Iterator[Ended]:
        """Run every job, each on the first device that is free."""
        waiting = iter(jobs)
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        exhausted = False
        try:
            while running or not exhausted:
                for slot, environment in enumerate(self.slots):
                    if slot in running or exhausted:
                        continue
                    job = next(waiting, None)
                    if job is None:
                        exhausted = True
                        continue
                    try:
                        running[slot] = (job, start(job, environment))
                    except OSError as error:
                        yield Ended(job, 1, f"It could not be started ({error}).")
                for slot, (job, process) in list(running.items()):
                    status = process.poll()
                    if status is not None:
                        del running[slot]
                        yield Ended(job, status)
                tick()
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            end([process for _, process in running.values()])


def visible(device: str) -> dict[str, str]:
    """Environment variables with which a process sees only `device`."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        # Numbers count what this process sees, which may be less than there is.
        seen = os.environ.get(VISIBLE, "")
        return {VISIBLE: seen.split(",")[int(index or 0)] if seen else index or "0"}
    return {VISIBLE: ""} if kind == "cpu" else {}


def _free_bytes(environment: dict[str, str]) -> int | None:
    """Free memory of the one visible CUDA device, asked in a process of its own: asking takes 400 MB of it for good."""
    code = "import torch; print(torch.cuda.mem_get_info(0)[0])"
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return int(asked.stdout) if asked.returncode == 0 else None


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to save and end, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            end_trees([psutil.Process(process.pid)])
            process.wait()
