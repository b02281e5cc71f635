"""A training folder that has been read: its images, and what training, caches and reports ask about them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset.buckets import Size
from adapter_lab.training.dataset.captions import split_tags
from adapter_lab.training.dataset.plan import batches_per_epoch, epoch_uses, fixed_batches, fixed_sample, plan_epoch
from adapter_lab.training.dataset.report import DatasetReport, make_report
from adapter_lab.training.dataset.samples import Batch, Item, Sample


@dataclass(frozen=True)
class Dataset:
    """The images to train on (`items`), those held out for validation, and what was passed over.

    `skipped` lists (path, reason) of files that are not used; `warnings` are sentences about the rest; `ignored` counts
    files of other kinds by suffix.
    """

    config: DatasetConfig
    resolution: int
    items: tuple[Item, ...]
    held_out: tuple[Item, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()
    warnings: tuple[str, ...] = ()
    ignored: dict[str, int] = field(default_factory=dict)
    cache_folder: Path | None = None

    @property
    def resolutions(self) -> list[int]:
        """Every training resolution of an image (px), the smallest first."""
        return sorted({item.source.resolution for item in self.items})

    def plan(self, epoch: int, batch_size: int, seed: int) -> list[Batch]:
        """The batches of an epoch (from 0) in order: a pure function of its arguments and the folder.

        Each batch has one bucket; the last of a bucket may be short. Regularisation images are as many as training
        images.
        """
        return plan_epoch(self.items, epoch, batch_size, seed, self.config.random_crop, self.config.color_augment)

    def batches_per_epoch(self, batch_size: int) -> int:
        """The number of batches of every epoch."""
        return batches_per_epoch(self.items, batch_size)

    def validation_plan(self, batch_size: int) -> list[Batch]:
        """The held-out images once each, with nothing left to chance."""
        return fixed_batches(self.held_out, batch_size)

    @property
    def cacheable(self) -> bool:
        """Whether an image is always the same pixels (or their mirror image), so that latents can be kept."""
        return not (self.config.random_crop or self.config.color_augment)

    def cache_samples(self) -> list[Sample]:
        """Every image once, and mirrored where its source asks for flips: what a latent cache must hold."""
        samples = [fixed_sample(item) for item in (*self.items, *self.held_out)]
        return samples + [fixed_sample(item, flip=True) for item in self.items if item.source.flip]

    @property
    def captions_vary(self) -> bool:
        """Whether an image's caption can differ between uses, other than by being dropped as a whole."""
        return any(item.source.rules.varies(item.caption_lines) for item in self.items)

    def all_captions(self) -> list[str]:
        """Every plain caption once, in the order of images, and "" first where captions can be dropped.

        Unless `captions_vary`, these are all the captions that training and validation use.
        """
        captions = [""] if self.config.caption_dropout > 0 else []
        captions += [item.plain_caption for item in (*self.items, *self.held_out)]
        return list(dict.fromkeys(captions))

    def tag_counts(self) -> dict[str, int]:
        """How many training images have each tag, most frequent first; regularisation images are not counted."""
        counts: Counter[str] = Counter()
        for item in self.items:
            if not item.is_regularisation:
                counts.update(set(split_tags(item.plain_caption)))
        return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))

    def tag_counts_by_folder(self) -> dict[str, dict[str, int]]:
        """How many images of each folder have each tag (`ss_tag_frequency`)."""
        counts: dict[str, Counter[str]] = {}
        for item in self.items:
            counts.setdefault(item.folder, Counter()).update(set(split_tags(item.plain_caption)))
        return {
            folder: dict(sorted(tags.items(), key=lambda entry: (-entry[1], entry[0])))
            for folder, tags in sorted(counts.items())
        }

    def folder_counts(self) -> dict[str, dict[str, int]]:
        """Repeats and images of each folder (`ss_dataset_dirs`)."""
        counts: dict[str, dict[str, int]] = {}
        for item in self.items:
            counts.setdefault(item.folder, {"n_repeats": item.repeats, "img_count": 0})["img_count"] += 1
        return dict(sorted(counts.items()))

    def bucket_counts(self) -> dict[Size, tuple[int, int]]:
        """For each bucket (w, h): images in it, and uses of them per epoch."""
        pictures = Counter(item.bucket for item in self.items)
        uses = {bucket: len(group) for bucket, group in epoch_uses(self.items, 0, 0).items()}
        return {bucket: (pictures[bucket], uses.get(bucket, 0)) for bucket in sorted(pictures)}

    def report(self, batch_size: int = 1, gradient_accumulation: int = 1) -> DatasetReport:
        """What a person should know before training starts."""
        return make_report(self, batch_size, gradient_accumulation)

    @property
    def fingerprint(self) -> str:
        """Changes when the images, captions or settings that `plan` goes by change; a resumed run compares it."""
        parts = [
            [item.key, item.digest, item.mask_digest, item.repeats, item.bucket, item.placement.resized,
             item.caption_lines, item.source.flip, item.is_regularisation, sorted(vars(item.source.rules).items())]
            for item in self.items
        ]  # fmt: skip
        options = [self.config.random_crop, self.config.color_augment]
        return hashlib.sha256(json.dumps([parts, options]).encode("ascii")).hexdigest()
