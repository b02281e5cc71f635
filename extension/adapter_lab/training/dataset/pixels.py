"""Images as training sees them: resized, cropped, mirrored, augmented, as tensors with their loss masks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy
import torch
from PIL import Image
from torch import Tensor

from adapter_lab.training.dataset.images import read_mask, read_picture
from adapter_lab.training.dataset.randomness import Draws
from adapter_lab.training.dataset.samples import Batch, Sample

MOST_HUE = math.radians(10)
MOST_BRIGHTNESS = 0.1

Loaded = tuple[Tensor, "Tensor | None"]


def load_pixels(sample: Sample, latent_scale: int = 8) -> tuple[Tensor, Tensor | None]:
    """Read a sample: pixels (3, h, w) fp32 in [-1, 1] and its loss mask (1, h/scale, w/scale) in [0, 1], or None.

    A mask is the mean of the image's mask over the pixels of each latent. Raises PictureError.
    """
    item = sample.item
    resized, bucket = item.placement.resized, item.placement.bucket
    picture, mask = read_picture(item.path, resized, item.alpha_is_mask, expected=item.size)
    if item.mask_path is not None:
        mask = read_mask(item.mask_path, resized)
    left, top = sample.crop
    box = (left, top, left + bucket[0], top + bucket[1])
    values = _cut(picture, box, sample.flip)
    pixels = values.permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1.0)
    if sample.color_seed is not None:
        pixels = augment_colors(pixels, sample.color_seed)
    if mask is None:
        return pixels, None
    weights = _cut(mask, box, sample.flip).float().div_(255.0)
    return pixels, torch.nn.functional.avg_pool2d(weights[None], latent_scale)


def _cut(image: Image.Image, box: tuple[int, int, int, int], flip: bool) -> Tensor:
    image = image.crop(box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(numpy.array(image))


def augment_colors(pixels: Tensor, seed: int) -> Tensor:
    """Pixels (3, h, w) in [-1, 1] with the hue turned by up to 10 degrees and brightness changed by up to 10%."""
    draws = Draws("colour", seed)
    angle = MOST_HUE * (2 * draws.uniform() - 1)
    gain = 1 + MOST_BRIGHTNESS * (2 * draws.uniform() - 1)
    # A rotation of RGB about the grey axis (1, 1, 1): hue turns, greys stay.
    cosine, sine = math.cos(angle), math.sin(angle) / math.sqrt(3)
    same, before, after = (1 + 2 * cosine) / 3, (1 - cosine) / 3 - sine, (1 - cosine) / 3 + sine
    rotation = torch.tensor([[same, before, after], [after, same, before], [before, after, same]])
    turned = (rotation @ ((pixels + 1) / 2).flatten(1)).view_as(pixels)
    return (turned * gain).clamp_(0, 1).mul_(2).sub_(1)


def prefetch(
    batches: Iterable[Batch], latent_scale: int = 8, threads: int = 2, ahead: int = 2
) -> Iterator[tuple[Batch, Tensor, Tensor | None]]:
    """Yield (batch, pixels (B, 3, h, w), masks (B, 1, h/scale, w/scale) or None), decoding `ahead` batches ahead.

    Masks are ones for samples without a mask in a batch that has any. Raises PictureError.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    waiting: deque[tuple[Batch, list[Future[Loaded]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(load_pixels, sample, latent_scale) for sample in batch.items]))
            if len(waiting) > ahead:
                yield _stack(*waiting.popleft())
        while waiting:
            yield _stack(*waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _stack(batch: Batch, futures: list[Future[Loaded]]) -> tuple[Batch, Tensor, Tensor | None]:
    loaded = [future.result() for future in futures]
    return batch, torch.stack([pixels for pixels, _ in loaded]), stack_masks([mask for _, mask in loaded])


def stack_masks(masks: list[Tensor | None]) -> Tensor | None:
    """Masks of a batch as (B, 1, h, w), ones where a sample has none; None when no sample has one."""
    shape = next((mask for mask in masks if mask is not None), None)
    if shape is None:
        return None
    return torch.stack([torch.ones_like(shape) if mask is None else mask for mask in masks])
