"""Aspect buckets: the sizes images are brought to, so that images of one size can share a batch.

A bucket (w, h) has sides that are multiples of `step` between `shortest` and `longest`, and w * h <= resolution^2.
Unless enlarging is allowed, an image only gets a bucket that it covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import ConfigError

Size = tuple[int, int]

# Below this an image holds less than 2 x 2 latents and teaches nothing, however far it is enlarged.
SMALLEST_SIDE = 16


@dataclass(frozen=True, slots=True)
class Placement:
    """How an image fills its bucket: brought to `resized` (w, h), then the bucket is cut out of it.

    `kept` is the share of the image's area that the crop leaves, `scale` its enlargement (< 1: made smaller).
    """

    bucket: Size
    resized: Size
    kept: float
    scale: float

    @property
    def slack(self) -> Size:
        """Pixels (horizontally, vertically) by which the resized image is larger than the bucket."""
        return self.resized[0] - self.bucket[0], self.resized[1] - self.bucket[1]

    @property
    def centre(self) -> Size:
        """(left, top) of the crop in the middle."""
        return self.slack[0] // 2, self.slack[1] // 2


def place(picture: Size, bucket: Size) -> Placement:
    """The placement that brings `picture` to the smallest size covering `bucket`, keeping its aspect ratio."""
    scale = max(bucket[0] / picture[0], bucket[1] / picture[1])
    resized = (max(bucket[0], round(picture[0] * scale)), max(bucket[1], round(picture[1] * scale)))
    kept = bucket[0] * bucket[1] / (picture[0] * scale * picture[1] * scale)
    return Placement(bucket, resized, min(1.0, kept), scale)


@dataclass(frozen=True)
class Buckets:
    """The buckets of one training resolution (pixels); `all_sizes` are those that use its whole area."""

    resolution: int
    step: int = 64
    shortest: int = 256
    longest: int = 2048
    square_only: bool = False
    upscale: bool = False
    all_sizes: tuple[Size, ...] = field(init=False)
    _known: dict[Size, Placement | None] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_sizes", self._full_area_sizes())

    @staticmethod
    def from_config(config: DatasetConfig, resolution: int, section: str = "dataset") -> Buckets:
        """The buckets a configuration asks for; raises ConfigError, naming `section`, when there could be none."""
        step = config.bucket_step
        if step < 8 or step % 8:
            raise ConfigError(f"dataset.bucket_step is {step}; it must be a multiple of 8, the pixels of one latent.")
        if resolution < step:
            raise ConfigError(
                f"{section}.resolution {resolution} is below dataset.bucket_step {step}; raise it or lower the step."
            )
        shortest = _round_up(config.bucket_min or resolution // 4, step)
        longest = _round_down(config.bucket_max or 2 * resolution, step)
        if shortest > longest or shortest > resolution:
            limit, name = min((longest, f"{section}.bucket_max"), (resolution, "the resolution"))
            raise ConfigError(
                f"{section}.bucket_min {shortest} (in steps of {step}) is above {name} {limit}; no bucket is left."
            )
        return Buckets(resolution, step, shortest, longest, not config.buckets, config.upscale)

    def choose(self, picture: Size) -> Placement | None:
        """Where an image of size (w, h) goes; None when it is too small for any bucket."""
        # One answer for all images of a size, of which there can be very many.
        if picture not in self._known:
            self._known[picture] = self._chosen(picture)
        return self._known[picture]

    def _chosen(self, picture: Size) -> Placement | None:
        width, height = picture
        if min(picture) < SMALLEST_SIDE:
            return None
        best = min(self.all_sizes, key=lambda size: (_aspect_error(picture, size), -size[0] * size[1], size))
        if self.upscale or (best[0] <= width and best[1] <= height):
            return place(picture, best)
        own = self._own_size(picture)
        return None if own is None else place(picture, own)

    def _own_size(self, picture: Size) -> Size | None:
        """The largest bucket near the aspect ratio of an image too small for those of the whole area."""
        width, height = picture
        if self.square_only:
            side = _round_down(min(width, height, self.resolution), self.step)
            return (side, side) if side >= self.shortest else None
        scale = min(1.0, self.resolution / math.sqrt(width * height), self.longest / max(picture))
        sides = []
        for side in picture:
            # A panorama keeps the shortest side and loses more of its length, rather than being left out.
            wanted = max(self.shortest, _round_down(int(side * scale + 1e-6), self.step))
            if wanted > side:
                return None
            sides.append(wanted)
        while sides[0] * sides[1] > self.resolution**2:
            longer = 0 if sides[0] >= sides[1] else 1
            sides[longer] -= self.step
        return sides[0], sides[1]

    def _full_area_sizes(self) -> tuple[Size, ...]:
        area = self.resolution**2
        square = _round_down(min(self.resolution, self.longest), self.step)
        sizes = {(square, square)}
        if not self.square_only:
            for width in range(self.shortest, self.longest + 1, self.step):
                height = min(self.longest, _round_down(area // width, self.step))
                if height >= self.shortest:
                    sizes |= {(width, height), (height, width)}
        return tuple(sorted(sizes))


def _aspect_error(picture: Size, bucket: Size) -> float:
    return round(abs(math.log(picture[0] * bucket[1] / (picture[1] * bucket[0]))), 9)


def _round_down(value: int, step: int) -> int:
    return value // step * step


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
