"""The order of training: which images, captions, crops and flips each epoch uses, as a pure function.

Nothing is remembered between epochs: the same images, settings, seed and epoch give the same batches on any machine,
so resuming needs no data-loader state, and variants that are compared see the same data.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapter_lab.training.dataset.buckets import Size
from adapter_lab.training.dataset.randomness import Draws
from adapter_lab.training.dataset.samples import Batch, Item, Sample

Use = tuple[Item, int]  # an image and which of its repeats


def epoch_uses(items: Sequence[Item], epoch: int, seed: int) -> dict[Size, list[Use]]:
    """The uses of images in an epoch, by bucket: every training image `repeats` times, and as many class images.

    Class images fill a quota per bucket, which is the same in every epoch, so epochs are equally long; which ones
    fill it moves on from epoch to epoch until all had their turn.
    """
    uses: dict[Size, list[Use]] = {}
    classes: dict[Size, list[Use]] = {}
    for item in items:
        target = classes if item.is_regularisation else uses
        target.setdefault(item.bucket, []).extend((item, repeat) for repeat in range(item.repeats))
    wanted = sum(len(group) for group in uses.values())
    for bucket, quota in regularisation_quotas({size: len(group) for size, group in classes.items()}, wanted).items():
        pool = Draws("classes", seed, *bucket).shuffled(classes[bucket])
        turns = [epoch * quota + turn for turn in range(quota)]
        # An image that comes round again within the epoch is a further repeat, with its own caption and crop.
        again = [(turn // len(pool)) * 1_000_000 for turn in turns]
        picked = [(pool[turn % len(pool)][0], pool[turn % len(pool)][1] + more) for turn, more in zip(turns, again)]
        uses.setdefault(bucket, []).extend(picked)
    return dict(sorted(uses.items()))


def regularisation_quotas(pools: dict[Size, int], wanted: int) -> dict[Size, int]:
    """`wanted` uses of class images shared out over buckets by the size of their pools (largest remainder)."""
    total = sum(pools.values())
    if not total:
        return {}
    quotas = {bucket: wanted * count // total for bucket, count in pools.items()}
    by_remainder = sorted(pools, key=lambda bucket: (-(wanted * pools[bucket] % total), bucket))
    for bucket in by_remainder[: wanted - sum(quotas.values())]:
        quotas[bucket] += 1
    return {bucket: quota for bucket, quota in quotas.items() if quota}


def plan_epoch(
    items: Sequence[Item], epoch: int, batch_size: int, seed: int, random_crop: bool, color_augment: bool
) -> list[Batch]:
    """The batches of an epoch in order; each has one bucket, and the last of a bucket may be short."""
    batches: list[list[Use]] = []
    for bucket, uses in epoch_uses(items, epoch, seed).items():
        order = Draws("order", seed, epoch, *bucket).shuffled(uses)
        batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [
        Batch(tuple(draw_sample(item, epoch, repeat, seed, random_crop, color_augment) for item, repeat in batch))
        for batch in Draws("batches", seed, epoch).shuffled(batches)
    ]


def batches_per_epoch(items: Sequence[Item], batch_size: int) -> int:
    """The exact number of batches of every epoch."""
    return sum(-(-len(uses) // batch_size) for uses in epoch_uses(items, 0, 0).values())


def draw_sample(item: Item, epoch: int, repeat: int, seed: int, random_crop: bool, color_augment: bool) -> Sample:
    """One use of an image; its chances depend on (seed, epoch, repeat, image) alone, not on its batch."""
    draws = Draws("picture", seed, epoch, repeat, item.key)
    flip = draws.chance(0.5) and item.source.flip
    crop = item.placement.centre
    if random_crop:
        crop = (draws.below(item.placement.slack[0] + 1), draws.below(item.placement.slack[1] + 1))
    color_seed = draws.below(1 << 31) if color_augment else None
    # A stream of its own, so that crops and colours do not change captions.
    caption = item.source.rules.varied(item.caption_lines, Draws("caption", seed, epoch, repeat, item.key))
    return Sample(item, caption, flip, crop, repeat, color_seed)


def fixed_sample(item: Item, flip: bool = False) -> Sample:
    """The use of an image that leaves nothing to chance: middle crop, plain caption; for caches and validation."""
    return Sample(item, item.plain_caption, flip, item.placement.centre)


def fixed_batches(items: Sequence[Item], batch_size: int) -> list[Batch]:
    """`items` once each in a fixed order, in batches of one bucket."""
    groups: dict[Size, list[Item]] = {}
    for item in items:
        groups.setdefault(item.bucket, []).append(item)
    return [
        Batch(tuple(fixed_sample(item) for item in group[start : start + batch_size]))
        for _, group in sorted(groups.items())
        for start in range(0, len(group), batch_size)
    ]
