"""kohya's folders, caption and bucket options, from the training file or a dataset file, as our dataset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adapter_lab.config import SourceConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, numbers

# Options that hold for the whole dataset here and for one subset there: theirs -> (ours, kind, default).
SHARED: dict[str, tuple[str, str, Any]] = {
    "shuffle_caption": ("shuffle_tags", "boolean", False),
    "keep_tokens_separator": ("keep_tokens_separator", "text", ""),
    "caption_dropout_rate": ("caption_dropout", "number", 0.0),
    "caption_tag_dropout_rate": ("tag_dropout", "number", 0.0),
    "enable_wildcard": ("wildcards", "boolean", False),
    "color_aug": ("color_augment", "boolean", False),
    "random_crop": ("random_crop", "boolean", False),
}
# Options of one subset: theirs -> (ours, kind, default).
OWN: dict[str, tuple[str, str, Any]] = {
    "num_repeats": ("repeats", "integer", 1),
    "is_reg": ("regularisation", "boolean", False),
    "class_tokens": ("class_tokens", "text", ""),
    "keep_tokens": ("keep_tokens", "integer", 0),
    "flip_aug": ("flip", "boolean", False),
    "caption_prefix": ("prefix", "text", ""),
    "caption_suffix": ("suffix", "text", ""),
}
NOT_CARRIED = {
    "token_warmup_min": "there is no token warm-up here",
    "token_warmup_step": "there is no token warm-up here",
    "caption_dropout_every_n_epochs": "caption dropout is drawn per picture here",
    "secondary_separator": "there is no second separator here",
    "face_crop_aug_range": "there is no face crop here",
    "metadata_file": "captions are read from the files beside the pictures",
    "in_json": "captions are read from the files beside the pictures",
    "conditioning_data_dir": "such folders are not read; put masks beside the pictures and set dataset.mask",
    "custom_attributes": "this import does not know it",
}
NOT_NEEDED = ("cache_info", "skip_image_resolution", "resize_interpolation", "network_multiplier")


def import_folders(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.dataset` from the training file itself: `train_data_dir`, `reg_data_dir` and caption options."""
    data = config.dataset
    data.folder, data.regularisation_folder = keys.text("train_data_dir"), keys.text("reg_data_dir")
    repeats = keys.take("dataset_repeats")
    data.repeats = int(repeats) if repeats and int(repeats) > 1 else "auto"
    _shared(config, [keys], default_source=True)
    _buckets(config, keys)


def import_dataset_file(config: TrainConfig, tables: Mapping[str, Any], keys: Keys) -> None:
    """Fill `config.dataset` from a dataset file: [general] < [[datasets]] < [[datasets.subsets]].

    What the training file says (`keys`) holds where the dataset file is silent, as in sd-scripts.
    """
    general = dict(tables.get("general", {}))
    datasets = tables.get("datasets", [])
    if not isinstance(datasets, list) or not datasets:
        raise ConfigError("The dataset file has no [[datasets]], so it names no pictures.")
    passed_on = (*SHARED, *OWN, *BUCKET_KEYS, "caption_extension", "alpha_mask")
    inherited = {name: keys.values.pop(name) for name in passed_on if name in keys.values}
    subsets: list[Keys] = []
    wholes: list[Keys] = []
    for number, dataset in enumerate(datasets):
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        for index, subset in enumerate(dataset.get("subsets", [])):
            merged = {**inherited, **general, **own, **subset}
            for name in BUCKET_KEYS:
                merged.pop(name, None)
            subsets.append(Keys(merged, keys.left_out, f"datasets[{number}].subsets[{index}]."))
        whole = {**inherited, **general, **own}
        wholes.append(Keys({n: whole[n] for n in BUCKET_KEYS if n in whole}, keys.left_out, f"datasets[{number}]."))
    if not subsets:
        raise ConfigError("The dataset file has no [[datasets.subsets]], so it names no pictures.")
    for other in wholes[1:]:
        for name in BUCKET_KEYS:
            if other.values.get(name) != wholes[0].values.get(name):
                other.note(name, other.values.get(name), "one run has one resolution, batch size and set of buckets: "
                           "the first dataset's")  # fmt: skip
    _shared(config, subsets)
    _buckets(config, wholes[0])
    _place(config, [_source(subset) for subset in subsets])
    for subset in subsets:
        for name in list(subset.values):
            if name in NOT_NEEDED:
                subset.take(name)
            subset.leave(name, NOT_CARRIED.get(name, "this import does not know it"))


BUCKET_KEYS = (
    "resolution",
    "batch_size",
    "train_batch_size",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
)


def _source(subset: Keys) -> SourceConfig:
    source = SourceConfig(folder=subset.text("image_dir"))
    if not source.folder:
        raise ConfigError(f"{subset.name}image_dir is missing: fine-tuning metadata files cannot be imported.")
    for theirs, (ours, kind, default) in OWN.items():
        setattr(source, ours, getattr(subset, kind)(theirs, default))
    return source


def _place(config: TrainConfig, sources: list[SourceConfig]) -> None:
    """One training folder becomes the dataset's own, with its options; further ones are listed as sources."""
    data = config.dataset
    learned = [source for source in sources if not source.regularisation]
    if len(learned) == 1:
        for name in ("folder", "repeats", "class_tokens", "keep_tokens", "flip", "prefix", "suffix"):
            setattr(data, name, getattr(learned[0], name))
        sources = [source for source in sources if source.regularisation]
    data.sources = sources


def _shared(config: TrainConfig, subsets: list[Keys], default_source: bool = False) -> None:
    data = config.dataset
    for theirs, (ours, kind, default) in SHARED.items():
        _agreed(data, ours, theirs, subsets, [getattr(subset, kind)(theirs, default) for subset in subsets])
    masks = ["alpha" if subset.boolean("alpha_mask") else "none" for subset in subsets]
    _agreed(data, "mask", "alpha_mask", subsets, masks)
    extensions = [subset.text("caption_extension", subset.text("caption_extention")) for subset in subsets]
    if any(extensions):
        _agreed(data, "caption_extensions", "caption_extension", subsets, [[text or ".caption"] for text in extensions])
    else:
        subsets[0].note(
            "caption_extension", None, "not given: sd-scripts would read .caption only, here .txt comes first"
        )
    if default_source:
        for theirs, (ours, kind, default) in OWN.items():
            if theirs not in ("num_repeats", "is_reg"):
                setattr(data, ours, getattr(subsets[0], kind)(theirs, default))
    for subset in subsets:
        for name, reason in NOT_CARRIED.items():
            subset.leave(name, reason)


def _agreed(data: Any, ours: str, theirs: str, subsets: list[Keys], values: list[Any]) -> None:
    """Set the value most subsets have, and note those that have another."""
    (common, _), *_ = Counter(map(repr, values)).most_common(1)
    for subset, value in zip(subsets, values):
        if repr(value) == common:
            setattr(data, ours, value)
        else:
            subset.note(theirs, value, f"dataset.{ours} is one for all folders: the value most of them have")


def _buckets(config: TrainConfig, keys: Keys) -> None:
    data = config.dataset
    sides = numbers(keys.take("resolution", 512))
    side = math.sqrt(sides[0] * sides[-1])
    data.resolution = int(sides[0]) if sides[0] == sides[-1] else max(64, round(side / 8) * 8)
    data.buckets = keys.boolean("enable_bucket")
    if len(set(sides)) > 1:
        keys.note("resolution", sides, f"imported as the square of about the same area, {data.resolution} px")
        if not data.buckets:
            data.buckets = True
            keys.note("enable_bucket", False, "a resolution that is not square needs buckets here, so they are on")
    data.bucket_step = keys.integer("bucket_reso_steps", 64)
    smallest, largest = keys.integer("min_bucket_reso", 256), keys.integer("max_bucket_reso", 1024)
    data.upscale = not keys.boolean("bucket_no_upscale") if data.buckets else True
    if data.buckets:
        data.bucket_min, data.bucket_max = smallest, largest
    batch = keys.integer("batch_size") or keys.integer("train_batch_size", 1)
    keys.take("train_batch_size")
    config.run.batch_size = batch
