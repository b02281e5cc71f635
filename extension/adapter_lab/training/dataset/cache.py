"""Caches of encoded images and captions, keyed by all they depend on, so that a change of any makes them again.

A mirrored image has an entry of its own. A VAE's encoder is not mirror-symmetric (its downsampling pads right and
below only, and nothing ties its filters to their mirror images), so a mirrored latent is not the latent of the mirrored
image: `benchmarks/dataset.py` measures the difference, which is many times the posterior's standard deviation.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters.tensors import is_finite
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset.pixels import prefetch
from adapter_lab.training.dataset.samples import Batch, Sample
from adapter_lab.training.dataset.store import TensorStore

# Goes up whenever images are turned into pixels in another way.
PIXELS_VERSION = 1

Progress = Callable[[int, int], None]
EncodePixels = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CachedLatents:
    """The VAE's posterior of an image: mean and std (C, h, w) before scaling; loss mask (1, h, w) or None."""

    mean: Tensor
    std: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class CachedText:
    """The text encoders' outputs for a caption: hidden states (n, D), pooled output (P,) or None."""

    hidden: Tensor
    pooled: Tensor | None


@dataclass(frozen=True)
class KeptText:
    """What is kept of the encodings of a batch: B hidden states (n, D), and pooled outputs (B, P) or None."""

    hidden: Sequence[Tensor]
    pooled: Tensor | None


@dataclass
class FillReport:
    """What filling a cache did: entries made, entries found, seconds, and sentences a person should read."""

    made: int = 0
    found: int = 0
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)


class LatentCache:
    """Encoded images of one VAE, on disk in `folder` or in memory where it is None, as `dtype`.

    `vae_name` is what sentences call the VAE, such as its file.
    """

    def __init__(
        self, folder: Path | None, vae_key: str, dtype: torch.dtype = torch.float32, vae_name: str = "the VAE"
    ) -> None:
        self.vae_name = vae_name
        self.store = TensorStore(folder / "latents" if folder is not None else None)
        self.vae_key = vae_key
        self.dtype = dtype

    def key(self, sample: Sample) -> str:
        """All that a sample's latents depend on, as text."""
        placement, item = sample.item.placement, sample.item
        return _key(
            pixels=PIXELS_VERSION,
            picture=item.digest,
            resized=placement.resized,
            bucket=placement.bucket,
            crop=sample.crop,
            flip=sample.flip,
            mask=item.mask_digest or ("alpha" if item.alpha_is_mask else ""),
            vae=self.vae_key,
            dtype=str(self.dtype),
        )

    def get(self, sample: Sample) -> CachedLatents | None:
        """The latents of a sample; None when they are not cached, or broken."""
        entry = self.store.get(self.key(sample))
        return None if entry is None else CachedLatents(entry["mean"], entry["std"], entry.get("mask"))

    def put(self, sample: Sample, mean: Tensor, std: Tensor, mask: Tensor | None = None) -> None:
        """Keep the latents (C, h, w) of a sample.

        Raises DatasetError when neither disk nor memory has room, and for values that are not finite.
        """
        tensors = {"mean": mean.to(self.dtype), "std": std.to(self.dtype)}
        if not all(is_finite(tensor) for tensor in tensors.values()):
            raise DatasetError(latents_not_finite(sample.item.path, self.vae_name))
        if mask is not None:
            tensors["mask"] = mask.to(torch.float32)
        self.store.put(self.key(sample), tensors)

    def missing(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples that have to be encoded, images of the same content once."""
        by_key = {self.key(sample): sample for sample in samples}
        return [by_key[key] for key in self.store.missing(by_key)]

    def fill(
        self,
        samples: Sequence[Sample],
        encode: EncodePixels,
        batch_size: int = 1,
        latent_scale: int = 8,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> FillReport:
        """Encode what is missing with `encode(pixels (B, 3, h, w)) -> (mean, std)`, decoding images ahead in threads.

        Raises PictureError for an image that has become unreadable, DatasetError when there is no room left.
        """
        started = time.monotonic()
        missing = self.missing(samples)
        done = 0
        for batch, pixels, masks in prefetch(
            _by_bucket(missing, batch_size), latent_scale, threads or decode_threads()
        ):
            mean, std = encode(pixels)
            for index, sample in enumerate(batch.items):
                self.put(
                    sample,
                    mean[index],
                    std[index],
                    masks[index] if masks is not None and sample.item.has_mask else None,
                )
            done += len(batch)
            if progress is not None:
                progress(done, len(missing))
        found = len({self.key(sample) for sample in samples}) - done
        return FillReport(done, found, time.monotonic() - started, self.store.take_remarks())


class TextCache:
    """Encoded captions of one set of text encoders, on disk in `folder` or in memory where it is None, as `dtype`."""

    def __init__(
        self,
        folder: Path | None,
        text_key: str,
        dtype: torch.dtype = torch.float32,
        chunks: int = 1,
        clip_skip: int = 0,
    ) -> None:
        self.store = TensorStore(folder / "text" if folder is not None else None)
        self.text_key = text_key
        self.dtype = dtype
        self.chunks = chunks
        self.clip_skip = clip_skip

    def key(self, caption: str) -> str:
        """All that a caption's encoding depends on, as text."""
        return _key(
            caption=caption, text=self.text_key, chunks=self.chunks, clip_skip=self.clip_skip, dtype=str(self.dtype)
        )

    def get(self, caption: str) -> CachedText | None:
        """The encoding of a caption; None when it is not cached, or broken."""
        entry = self.store.get(self.key(caption))
        return None if entry is None else CachedText(entry["hidden"], entry.get("pooled"))

    def put(self, caption: str, hidden: Tensor, pooled: Tensor | None) -> None:
        """Keep the encoding of a caption: hidden (77 * chunks, D), pooled (P,).

        Raises DatasetError without room, and for values that are not finite.
        """
        tensors = {"hidden": hidden.to(self.dtype)}
        if pooled is not None:
            tensors["pooled"] = pooled.to(self.dtype)
        if not all(is_finite(tensor) for tensor in tensors.values()):
            raise DatasetError(text_not_finite(caption))
        self.store.put(self.key(caption), tensors)

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The captions that have to be encoded, each once."""
        by_key = {self.key(caption): caption for caption in captions}
        return [by_key[key] for key in self.store.missing(by_key)]

    def fill(
        self,
        captions: Sequence[str],
        encode: Callable[[list[str]], KeptText],
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> FillReport:
        """Encode the captions that are missing; raises DatasetError when there is no room left."""
        started = time.monotonic()
        missing = self.missing(captions)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            output = encode(batch)
            for index, caption in enumerate(batch):
                self.put(caption, output.hidden[index], None if output.pooled is None else output.pooled[index])
            if progress is not None:
                progress(start + len(batch), len(missing))
        return FillReport(
            len(missing), len(set(captions)) - len(missing), time.monotonic() - started, self.store.take_remarks()
        )


def latents_not_finite(picture: Path, vae: str) -> str:
    """A sentence for an image that a VAE encodes as NaN or infinity."""
    return (
        f"{vae} encodes {picture} as values that are not finite (NaN), and nothing of that is kept; the VAE is damaged "
        "or no VAE of this base, so choose another in base.vae, or another base."
    )


def text_not_finite(caption: str) -> str:
    """A sentence for a caption that the text encoders encode as NaN or infinity."""
    return (
        f"The base's text encoders encode the caption {caption[:80]!r} as values that are not finite (NaN), and "
        "nothing of that is kept; set precision.mixed to bf16 or fp32, or use another base."
    )


def decode_threads() -> int:
    """Threads that decode images: enough to keep ahead of an encoder, few enough to leave it its cores."""
    return max(1, min(4, (os.cpu_count() or 2) // 2))


def _by_bucket(samples: Iterable[Sample], batch_size: int) -> list[Batch]:
    groups: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.bucket, []).append(sample)
    return [
        Batch(tuple(group[start : start + batch_size]))
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


def _key(**parts: object) -> str:
    return json.dumps(parts, sort_keys=True, ensure_ascii=True)
