"""One run over several devices, started by `accelerate launch`: each process takes its share of every batch.

The adapter is small beside the base, so its gradients are summed here rather than by a wrapper around the model. Noise
and captions depend on the image alone, so the global batch is that of a single process. Only the first process writes
anything that stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Parameter

from adapter_lab.training.dataset import Batch
from adapter_lab.training.denoiser.latents import LatentBatch


@dataclass(frozen=True)
class Team:
    """The processes of one run: this one's rank, and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Team:
        """The team that accelerate has joined."""
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main_process(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """The first process's `value`, in every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def share(self, batch: LatentBatch) -> LatentBatch | None:
        """This process's samples of a batch; None where there are fewer samples than processes."""
        if self.size == 1:
            return batch
        mine = slice(self.rank, None, self.size)
        items = batch.batch.items[mine]
        if not items:
            return None
        mask = None if batch.mask is None else batch.mask[mine]
        return replace(batch, batch=Batch(items), mean=batch.mean[mine], std=batch.std[mine], mask=mask)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Give every process the sum of all processes' gradients; a process without samples has none of its own."""
        if self.size == 1:
            return
        trained = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
        distributed.all_reduce(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained])):
            parameter.grad = part.view_as(parameter).clone()

    def all_losses(self, losses: Tensor, batches: Sequence[LatentBatch]) -> Tensor:
        """Losses (2, N) of whole batches from those of this process's shares, in the order of the samples."""
        if self.size == 1:
            return losses
        whole = torch.zeros(2, sum(len(batch.batch) for batch in batches), device=losses.device)
        first = taken = 0
        for batch in batches:
            end = first + len(batch.batch)
            count = len(range(first + self.rank, end, self.size))
            # A slice; a list of places would be copied to the device, which waits for it.
            whole[:, first + self.rank : end : self.size] = losses[:, taken : taken + count].float()
            taken += count
            first += len(batch.batch)
        distributed.all_reduce(whole)
        return whole


def is_team() -> bool:
    """Whether a launcher started several processes for this run; known before anything is set up."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this process is the only one of its run, or the first that a launcher started."""
    return not is_team() or int(os.environ.get("RANK", "0")) == 0
