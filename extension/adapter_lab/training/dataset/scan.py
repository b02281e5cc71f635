"""Read a training folder: find its images, look at each, give it a bucket and a caption, hold some out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import ConfigError, DatasetError, FileFormatError
from adapter_lab.training.dataset.buckets import Buckets
from adapter_lab.training.dataset.captions import NO_CAPTION_IN_JSON, CaptionFile, read_caption
from adapter_lab.training.dataset.dataset import Dataset
from adapter_lab.training.dataset.findings import folder_findings, item_findings, remark_finding
from adapter_lab.training.dataset.index import Looked, Progress, look_at
from adapter_lab.training.dataset.samples import Item
from adapter_lab.training.dataset.sources import (
    CACHE_FOLDER_NAME,
    FoundPicture,
    Listing,
    Source,
    explain_empty,
    list_source,
    sources_of,
)

# Uses of images in an epoch, of which a plan holds a list.
MOST_USES = 3_000_000


def scan(config: DatasetConfig, resolution: int = 0, progress: Progress | None = None) -> Dataset:
    """Read the training folder of a configuration for training at `resolution` (pixels; 0: the configuration's).

    Every image is decoded once, unless the index in the cache folder knows the file; `progress(done, total)` is told.
    Raises DatasetError when there is nothing to train on, ConfigError for bucket settings that leave no bucket.
    """
    resolution = resolution or config.resolution
    if resolution <= 0:
        raise ConfigError("dataset.resolution is 0 and no base model says which to use; set it, for example to 1024.")
    sources = sources_of(config, resolution)
    buckets = {source.label: _buckets(config, source) for source in sources}
    cache = cache_folder(config, sources[0])
    apart = [source.root for source in sources] + ([cache] if cache is not None else [])
    listings = [list_source(source, config, apart) for source in sources]
    files = [path for listing in listings for found in listing.pictures for path in (found.path, found.mask) if path]
    threads = min(8, os.cpu_count() or 1)
    looked, remark = look_at(list(dict.fromkeys(files)), cache, threads, progress)
    warnings = [remark] if remark else []
    items: list[Item] = []
    for source, listing in zip(sources, listings):
        remarks: dict[str, list[Path]] = {}
        chosen = buckets[source.label]
        own = [item for found in listing.pictures if (item := _item(found, looked, chosen, config, listing, remarks))]
        if not own:
            raise explain_empty(source, listing, config.recursive)
        items += own
        warnings += folder_findings(listing, config)
        warnings += [remark_finding(text, paths, "file") for text, paths in remarks.items()]
    if all(item.is_regularisation for item in items):
        raise DatasetError("There are only regularisation images; set dataset.folder to the images to learn from.")
    _check_uses(items)
    held_out = hold_out(items, config.validation_fraction)
    warnings += item_findings(items, config)
    return Dataset(
        config=config,
        resolution=resolution,
        items=tuple(item for item in items if item.key not in held_out),
        held_out=tuple(item for item in items if item.key in held_out),
        skipped=tuple(entry for listing in listings for entry in sorted(listing.skipped)),
        warnings=tuple(warnings),
        ignored=dict(sum((listing.ignored for listing in listings), Counter()).most_common()),
        cache_folder=cache,
    )


def _check_uses(items: list[Item]) -> None:
    """Raise DatasetError where an epoch would be longer than its plan has room for in memory."""
    uses = sum(item.repeats for item in items)
    if uses > MOST_USES:
        most = max(items, key=lambda item: item.repeats)
        raise DatasetError(
            f"An epoch would use images {uses:,} times, more than {MOST_USES:,}: {most.key} has {most.repeats:,} "
            "repeats. Lower dataset.repeats, or the number in the folder's name."
        )


def _buckets(config: DatasetConfig, source: Source) -> Buckets:
    sides = replace(config, bucket_min=source.bucket_min, bucket_max=source.bucket_max)
    return Buckets.from_config(sides, source.resolution, source.section)


def largest_resolution(config: DatasetConfig, usual: int) -> int:
    """The largest training resolution (px) of all folders that are given; `usual`: the base model's."""
    shared = config.resolution or usual
    own = [shared if isinstance(source.resolution, str) else source.resolution for source in config.sources]
    if config.folder.strip() or config.regularisation_folder.strip() or not own:
        own.append(shared)
    return max(own)


def cache_folder(config: DatasetConfig, source: Source) -> Path | None:
    """Where the index and the caches lie; None when nothing is to be kept on disk."""
    if config.cache_latents != "disk":
        return None
    if config.cache_folder.strip():
        return Path(config.cache_folder.strip()).expanduser().resolve()
    return source.root / CACHE_FOLDER_NAME


def _item(
    found: FoundPicture,
    looked: dict[Path, Looked],
    buckets: Buckets,
    config: DatasetConfig,
    listing: Listing,
    remarks: dict[str, list[Path]],
) -> Item | None:
    """The image as an item; None when it cannot be used, which `listing.skipped` then says."""
    picture = looked[found.path]
    info = picture.info
    if info is None:
        listing.skipped.append((found.path, picture.reason))
        return None
    mask = looked[found.mask] if found.mask is not None else None
    if mask is not None and (mask.info is None or mask.info.is_black):
        why = mask.reason or "all black, so nothing of the image would be learned; repaint it"
        listing.skipped.append((found.path, f"its mask {found.mask and found.mask.name} is no use: {why}"))
        return None
    placement = buckets.choose((info.width, info.height))
    if placement is None:
        listing.skipped.append((found.path, _too_small(info.width, info.height, buckets)))
        return None
    if info.is_animated:
        remarks.setdefault("animated, only the first frame is used", []).append(found.path)
    if (
        mask is not None
        and mask.info is not None
        and _other_shape(info.width / info.height, mask.info.width / mask.info.height)
    ):
        remarks.setdefault("the mask has another aspect ratio and is stretched over the image", []).append(found.path)
    caption = _caption(found, remarks)
    lines = caption.lines or ((found.class_tokens,) if found.class_tokens else ())
    return Item(
        key=found.key,
        path=found.path,
        source=found.source,
        folder=found.folder,
        digest=picture.digest,
        size=(info.width, info.height),
        placement=placement,
        repeats=found.repeats,
        caption_lines=lines,
        has_caption=bool(caption.lines),
        mask_path=found.mask,
        mask_digest=mask.digest if mask is not None else "",
        alpha_is_mask=config.mask == "alpha" and info.has_alpha,
    )


def _caption(found: FoundPicture, remarks: dict[str, list[Path]]) -> CaptionFile:
    if found.stated is not None:
        lines = (line.strip() for line in found.stated.splitlines())
        return CaptionFile(tuple(line for line in lines if line))
    path = found.caption
    if path is None:
        return CaptionFile(())
    try:
        caption = read_caption(path)
    except FileFormatError as error:
        remarks.setdefault(f"no caption ({error})".rstrip("."), []).append(path)
        return CaptionFile(())
    if caption.remark == NO_CAPTION_IN_JSON:
        remarks.setdefault(caption.remark, []).append(path)
    elif caption.remark and not caption.lines:
        remarks.setdefault(f"{caption.remark}; save as UTF-8", []).append(path)
    elif caption.remark:
        remarks.setdefault(f"{caption.remark}; save as UTF-8 if letters are wrong", []).append(path)
    elif not caption.lines:
        remarks.setdefault("an empty caption file, taken as no caption", []).append(path)
    return caption


def _too_small(width: int, height: int, buckets: Buckets) -> str:
    size = f"{width} x {height} pixels"
    if buckets.upscale:
        return f"{size} is too small to be enlarged; remove it or use a larger copy"
    return (
        f"{size} is smaller than the shortest bucket side of {buckets.shortest}; use a larger copy, lower "
        "dataset.bucket_min, or set dataset.upscale"
    )


def _other_shape(one: float, other: float) -> bool:
    return not 0.98 < one / other < 1.02


def hold_out(items: Sequence[Item], fraction: float) -> set[str]:
    """Keys of the items held out for validation: `fraction` of the training images, at least 1, chosen by content.

    The choice depends on the pictures' bytes alone, so it stays when files are renamed or settings change; copies of an
    image are held out together. Raises DatasetError when none would be left to train on.
    """
    if fraction <= 0:
        return set()
    groups: dict[str, list[Item]] = {}
    for item in items:
        if not item.is_regularisation:
            groups.setdefault(item.digest, []).append(item)
    if len(groups) < 2:
        raise DatasetError("dataset.validation_fraction needs at least two different images; add some or set it to 0.")
    count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    by_chance = sorted(groups, key=lambda digest: hashlib.sha256(f"held out {digest}".encode()).hexdigest())
    return {item.key for digest in by_chance[:count] for item in groups[digest]}
