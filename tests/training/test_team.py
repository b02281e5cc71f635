"""One run over several processes, as `accelerate launch` starts them, is the run of one process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from adapter_lab import config_file
from adapter_lab.study.executors import Job
from adapter_lab.study.executors.processes import command
from adapter_lab.training.dataset import Batch
from adapter_lab.training.denoiser.latents import LatentBatch
from adapter_lab.training.distributed import Team
from adapter_lab.training.loop import train
from tests.support.training import events_of, losses_of, tiny_config

# Sums of two halves are rounded otherwise than one sum; over four steps of fp32 that stays below this.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run by one process and by two, with a batch that two cannot share evenly."""
    root = tmp_path_factory.mktemp("team")
    config = tiny_config(root, "sdxl", pictures=5, run__steps=4, run__batch_size=3, save__every_steps=2)
    config.network.train_te, config.dataset.validation_fraction = True, 0.2
    config.save.dtype = "fp32"
    alone = train(config, root / "alone").run_folder
    config_file.write(config, root / "config.toml")
    arguments = ("train", "--config", str(root / "config.toml"), "--run-folder", str(root / "together"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    job = Job("together", root, arguments, processes=2)
    ended = subprocess.run(command(job), capture_output=True, text=True, env=environment, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return alone, root / "together"


def test_two_processes_have_the_losses_of_one(both):
    alone, together = both
    assert losses_of(together) == pytest.approx(losses_of(alone), rel=TOLERANCE)
    [one], [two] = (events_of(folder, "finished") for folder in both)
    assert two["pictures"] == one["pictures"]
    last = [events_of(folder, "validation")[-1]["loss"] for folder in both]
    assert last[1] == pytest.approx(last[0], rel=TOLERANCE)


def test_only_the_first_process_writes(both):
    alone, together = both
    assert len(events_of(together, "started")) == 1
    names = [sorted(path.name for path in (folder / "adapters").iterdir()) for folder in (alone, together)]
    assert names[0] == names[1]


def test_the_adapter_is_the_same_but_for_rounding(both):
    one, two = (load_file(folder / "adapters" / "adapter.safetensors") for folder in both)
    assert set(one) == set(two)
    for name, tensor in one.items():
        # AdamW takes equal steps for gradients of any size, so rounding shows where they are all but zero.
        assert (two[name] - tensor).norm() <= 1e-2 * tensor.norm() + 1e-4, name


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_of_a_batch_are_its_samples_once_each(size):
    values = torch.arange(3.0)
    batch = LatentBatch(Batch(("a", "b", "c")), values, values + 10, values + 20)  # type: ignore[arg-type]
    shares = [share for rank in range(size) if (share := Team(rank, size).share(batch))]
    assert sorted(item for share in shares for item in share.batch.items) == ["a", "b", "c"]
    for share in shares:
        assert [ord(item) - ord("a") for item in share.batch.items] == share.mean.tolist()
        assert torch.equal(share.std, share.mean + 10) and torch.equal(share.mask, share.mean + 20)
