"""Batches of latents in the order of training, from the cache or encoded on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset import Batch, CachedLatents, Dataset, LatentCache, Sample, prefetch, stack_masks

# Pixels (B, 3, H, W) in [-1, 1] to mean and standard deviation (B, C, h, w) of the VAE's posterior.
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LatentBatch:
    """A batch with the posterior of its images (B, C, h, w) on the CPU, and loss masks (B, 1, h, w) or None."""

    batch: Batch
    mean: Tensor
    std: Tensor
    mask: Tensor | None


def cached_batches(batches: Iterable[Batch], cache: LatentCache) -> Iterator[LatentBatch]:
    """Each batch with its latents out of the cache; raises DatasetError where one is not kept."""
    for batch in batches:
        entries = [_cached(cache, sample) for sample in batch.items]
        yield LatentBatch(
            batch,
            torch.stack([entry.mean.float() for entry in entries]),
            torch.stack([entry.std.float() for entry in entries]),
            stack_masks([entry.mask for entry in entries]),
        )


def _cached(cache: LatentCache, sample: Sample) -> CachedLatents:
    entry = cache.get(sample)
    if entry is None:
        raise DatasetError(
            f"The cached latents of {sample.item.path} are gone or broken; resume the run, which makes them again, and "
            "let nothing else clear the cache folder meanwhile."
        )
    return entry


def encoded_batches(batches: Iterable[Batch], encode: Encode, scale: int) -> Iterator[LatentBatch]:
    """Each batch with its latents, images decoded ahead in threads and encoded when they are needed."""
    for batch, pixels, mask in prefetch(batches, scale):
        mean, std = encode(pixels)
        yield LatentBatch(batch, mean, std, mask)


def steps_of_epoch(batches: Sequence[Batch], accumulation: int) -> list[list[Batch]]:
    """The batches of an epoch as optimiser steps of `accumulation` batches; the last step may have fewer."""
    return [list(batches[start : start + accumulation]) for start in range(0, len(batches), accumulation)]


def plan_from(dataset: Dataset, step: int, batch_size: int, accumulation: int, seed: int) -> Iterator[list[Batch]]:
    """The batches of every optimiser step after `step` finished ones, without end."""
    per_epoch = -(-dataset.batches_per_epoch(batch_size) // accumulation)
    first, done = divmod(step, per_epoch)
    for epoch in itertools.count(first):
        steps = steps_of_epoch(dataset.plan(epoch, batch_size, seed), accumulation)
        yield from steps[done:] if epoch == first else steps


def steps_with_latents(
    plan: Iterator[list[Batch]], source: Callable[[Iterable[Batch]], Iterator[LatentBatch]]
) -> Iterator[list[LatentBatch]]:
    """Optimiser steps with latents; `source` sees one endless run of batches, so that it can read ahead over steps."""
    sizes, batches = itertools.tee(plan)
    latents = source(batch for step in batches for batch in step)
    for step in sizes:
        yield [next(latents) for _ in step]
