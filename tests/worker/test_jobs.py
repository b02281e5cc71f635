"""Jobs for the page end with the program that wanted them, even where it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

PROGRAM = """
import sys, threading, time
from pathlib import Path
from adapter_lab.worker.jobs import Jobs
jobs = Jobs(lambda: Path(sys.executable))
threading.Thread(target=jobs.run, args=("estimate", ["estimate", "--base", "sdxl"]), daemon=True).start()
while not jobs._running:
    time.sleep(0.01)
print(jobs._running["estimate"].pid, flush=True)
time.sleep(600)
"""


def test_a_job_ends_with_a_program_that_is_killed():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment)
    assert program.stdout is not None
    job = psutil.Process(int(program.stdout.readline()))
    assert "estimate" in job.cmdline()
    program.kill()
    program.wait()
    end = time.monotonic() + 100
    while psutil.pid_exists(job.pid) and job.status() != psutil.STATUS_ZOMBIE:
        # Predicting SDXL's memory takes far longer than noticing that nobody waits for it.
        assert time.monotonic() < end
        time.sleep(0.1)
    program.stdout.close()
