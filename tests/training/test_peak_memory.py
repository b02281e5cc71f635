"""The memory that training takes at most.

In processes of their own: what other tests leave to be freed would be taken off what a test here takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys


def printed(program: str) -> list[int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


METER = """
import torch
from adapter_lab.training.device.peak_memory import MemoryMeter
"""


def test_an_allocation_that_is_freed_again_is_seen():
    present, peak = printed(
        METER
        + """
meter = MemoryMeter(torch.device("cpu"))
block = torch.ones(30_000_000)
present = meter.present()
del block
print([present, meter.peak()])
"""
    )
    assert 110e6 < present <= peak < 160e6


def test_the_peak_counts_from_its_own_start():
    (peak,) = printed(
        METER
        + """
block = torch.ones(50_000_000)
del block
print([MemoryMeter(torch.device("cpu")).peak()])
"""
    )
    assert peak < 20e6


def test_what_lies_free_in_the_process_does_not_hide_what_comes():
    present, peak = printed(
        METER
        + """
blocks = [torch.ones(2_500) for _ in range(12_000)]
del blocks
meter = MemoryMeter(torch.device("cpu"))
blocks = [torch.ones(2_500) for _ in range(12_000)]
print([meter.present(), meter.peak()])
"""
    )
    assert 100e6 < present <= peak < 160e6


def test_a_run_says_what_it_took(tmp_path):
    at_most, loading = printed(
        f"""
from pathlib import Path
from adapter_lab.training.loop import train
from tests.support.training import events_of, tiny_config
result = train(tiny_config(Path({str(tmp_path)!r}), "sdxl"))
(end,) = events_of(result.run_folder, "finished")
assert end["peak_bytes"] == result.peak_bytes
print([result.peak_bytes, end["loading_peak_bytes"]])
"""
    )
    assert at_most > 1e6 and loading > 1e6
