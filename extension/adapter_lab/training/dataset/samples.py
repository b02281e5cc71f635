"""What a batch is made of: an image of the folder (Item) and one use of it in training (Sample)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapter_lab.training.dataset.buckets import Placement, Size
from adapter_lab.training.dataset.sources import Source


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the training folder; sizes are (width, height) in pixels, after EXIF rotation.

    `key` names it for people and stays the same between runs; `digest` is the SHA-256 of its bytes.
    """

    key: str
    path: Path
    source: Source
    folder: str
    digest: str
    size: Size
    placement: Placement
    repeats: int
    caption_lines: tuple[str, ...]
    has_caption: bool
    mask_path: Path | None = None
    mask_digest: str = ""
    alpha_is_mask: bool = False

    @property
    def bucket(self) -> Size:
        """The bucket (w, h) of the image."""
        return self.placement.bucket

    @property
    def is_regularisation(self) -> bool:
        """Whether this is a class image, whose loss is weighted by `loss.prior_weight`."""
        return self.source.is_regularisation

    @property
    def has_mask(self) -> bool:
        """Whether the loss of this image is weighted by a mask."""
        return self.mask_path is not None or self.alpha_is_mask

    @property
    def plain_caption(self) -> str:
        """The caption with trigger, prefix and suffix, and nothing left to chance."""
        return self.source.rules.plain(self.caption_lines)


@dataclass(frozen=True)
class Sample:
    """One use of an image: its caption, mirrored or not, and where the bucket is cut out of the resized image.

    `crop` is (left, top) in the resized image before mirroring; `color_seed` seeds the colour augmentation.
    """

    item: Item
    caption: str
    flip: bool
    crop: Size
    repeat: int = 0
    color_seed: int | None = None

    @property
    def key(self) -> str:
        """The stable name of the image, for losses per image."""
        return self.item.key

    @property
    def bucket(self) -> Size:
        """The bucket (w, h)."""
        return self.item.bucket

    @property
    def is_regularisation(self) -> bool:
        """Whether the loss of this sample is weighted by `loss.prior_weight`."""
        return self.item.is_regularisation

    @property
    def original_size(self) -> Size:
        """(height, width) of the image file, as SDXL is conditioned on."""
        return self.item.size[1], self.item.size[0]

    @property
    def crop_top_left(self) -> Size:
        """(top, left) of the crop in the resized (and mirrored) image, as SDXL is conditioned on."""
        left, top = self.crop
        return top, self.item.placement.slack[0] - left if self.flip else left

    @property
    def target_size(self) -> Size:
        """(height, width) of the bucket, as SDXL is conditioned on."""
        return self.bucket[1], self.bucket[0]


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket that are trained in one forward pass."""

    items: tuple[Sample, ...]

    @property
    def bucket(self) -> Size:
        """The bucket (w, h) of every sample."""
        return self.items[0].bucket

    @property
    def captions(self) -> list[str]:
        """The captions in the order of the samples."""
        return [sample.caption for sample in self.items]

    def __len__(self) -> int:
        return len(self.items)
