"""Stands in for the training process where only starting, queueing and ending are tested: no torch, so it is fast.

Called as the interpreter is: `-m adapter_lab train --config C --run-folder F`, `-m adapter_lab resume F`, or `-m
adapter_lab study resume F`, where it does what a study logs. It trains `run.steps` steps of 20 ms and stops when asked;
a run named "stubborn" ignores that, "broken" fails before its first event, "starved" is killed by the system, "parent"
has a child of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from adapter_lab import config_file
from adapter_lab.runs.events import EventLog
from adapter_lab.runs.run_folder import RunFolder


def main(arguments: list[str]) -> int:
    folder = RunFolder(Path(arguments[-1]))
    if "study" in arguments:
        return study(folder)
    resumed = folder.events.exists()
    config = config_file.load(folder.config)
    name = config.run.name
    if name == "broken":
        print("adapter-lab: The checkpoint is gone; choose another.", file=sys.stderr)
        return 2
    with folder.claimed(), EventLog(folder.events) as log:
        if name == "parent":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
            (folder.path / "child").write_text(str(child.pid))
        log.write("resumed", step=0) if resumed else log.write("started", name=name, algo="lora", adapters=folder.path)
        log.write("training", step=0, total_steps=config.run.steps, steps_per_epoch=1)
        for step in range(1, config.run.steps + 1):
            log.write("step", step=step, loss=1.0, seconds_per_step=0.02, progress=step / config.run.steps)
            if name == "starved" and step == 3 and not resumed:
                os.kill(os.getpid(), signal.SIGKILL)
            if (folder.path / "stop").exists() and name != "stubborn":
                log.write("finished", step=step, reason="stopped by the stop file")
                return 0
            time.sleep(0.02)
        log.write("finished", step=config.run.steps, reason=f"all {config.run.steps} steps done")
    return 0


def study(folder: RunFolder) -> int:
    with folder.claimed(), EventLog(folder.events) as log:
        log.write("started", folder=folder.path, trainings=["a"])
        log.write("training", training="a", attempt=1)
        while not (folder.path / "stop").exists():
            time.sleep(0.02)
        log.write("finished", reason="stopped by the stop file")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
