"""Memory of loading real-sized checkpoints: one component and a tensor at a time. Slow: writes 2 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import write_random_checkpoint

PROGRAM = """
import resource, sys, time, torch
from adapter_lab.config import BaseConfig
from adapter_lab.training.bases import open_base

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
started = time.perf_counter()
base = open_base(BaseConfig(checkpoint=sys.argv[1]))
base.content_key
opened = time.perf_counter() - started
before = peak()
unet = base.load_unet(torch.float16)
print(opened, before, peak() - before, sum(p.numel() * p.element_size() for p in unet.parameters()))
"""


@pytest.mark.slow
def test_loading_takes_no_more_memory_than_the_component(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "sd15.safetensors", "sd15", torch.float16)
    output = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    opened, before, grown, unet = (float(number) for number in output.stdout.split()[-4:])
    print(
        f"opened in {opened:.2f} s; {before / 2**20:.0f} MiB before, {grown / 2**20:.0f} grown, UNet {unet / 2**20:.0f}"
    )
    assert opened < 10
    assert unet == 859_520_964 * 2
    assert grown < 1.1 * unet
