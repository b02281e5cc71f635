"""kohya's folders, caption and bucket options, from the training file or a dataset file, as our dataset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adapter_lab.config import SourceConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, shown
from adapter_lab.kohya.table import HARMLESS, OPTIONS, row_of

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
BUCKET_KEYS = (
    "resolution",
    "batch_size",
    "train_batch_size",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "validation_split",
)


LARGEST_SIDE = 4096


def list_the_rest(keys: Keys) -> None:
    """Note every setting that nothing has taken, and that matters."""
    for name in list(keys.values):
        row = row_of(name, OPTIONS)
        if row.fate == HARMLESS:
            keys.take(name)
        keys.leave(name, row.words or "it has no meaning there", row.silent)


def import_folders(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.dataset` from the training file itself: `train_data_dir`, `reg_data_dir` and caption options."""
    data = config.dataset
    data.folder, data.regularisation_folder = keys.text("train_data_dir"), keys.text("reg_data_dir")
    keys.leave("dataset_repeats", OPTIONS["dataset_repeats"].words, (1,))
    _shared(config, [keys], default_source=True)
    _buckets(config, keys)


def import_dataset_file(config: TrainConfig, tables: Mapping[str, Any], keys: Keys) -> None:
    """Fill `config.dataset` from a dataset file: [general] < [[datasets]] < [[datasets.subsets]].

    What the training file says (`keys`) holds where the dataset file is silent, as in sd-scripts.
    """
    general = _table(tables.get("general", {}), "[general]")
    passed_on = (*SHARED, *OWN, *BUCKET_KEYS, "caption_extension", "alpha_mask")
    inherited = {name: keys.values.pop(name) for name in passed_on if name in keys.values}
    if (repeats := keys.take("dataset_repeats")) is not None:
        inherited.setdefault("num_repeats", repeats)
    subsets: list[Keys] = []
    wholes: list[Keys] = []
    datasets_of: list[int] = []  # of each subset
    for number, dataset in enumerate(_tables(tables.get("datasets"), "[[datasets]]")):
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        for index, subset in enumerate(_tables(dataset.get("subsets", []), "[[datasets.subsets]]")):
            merged = {**inherited, **general, **own, **subset}
            for name in BUCKET_KEYS:
                merged.pop(name, None)
            datasets_of.append(number)
            subsets.append(Keys(merged, keys.left_out, f"datasets[{number}].subsets[{index}]."))
        whole = {**inherited, **general, **own}
        wholes.append(Keys({n: whole[n] for n in BUCKET_KEYS if n in whole}, keys.left_out, f"datasets[{number}]."))
    if not subsets:
        raise ConfigError("The dataset file has no [[datasets.subsets]], so it names no images.")
    _shared(config, subsets)
    shared = {name: wholes[0].values.get(name) for name in BUCKET_KEYS}
    _buckets(config, wholes[0])
    sizes = [_own_sizes(config, whole, shared) for whole in wholes[1:]]
    sources = [_source(subset) for subset in subsets]
    for source, number in zip(sources, datasets_of):
        for name, value in (sizes[number - 1] if number else {}).items():
            setattr(source, name, value)
    _place(config, _without_doubles(sources, subsets))
    for taken in subsets:
        list_the_rest(taken)


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}, but must be a table of settings: correct it there.")
    return dict(value)


def _tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {shown(value)}, but must be a list of tables: correct it there.")
    return [_table(entry, name) for entry in value]


def _source(subset: Keys) -> SourceConfig:
    source = SourceConfig(folder=subset.text("image_dir"))
    if not source.folder:
        what = " (metadata files of fine-tuning cannot be imported)" if "metadata_file" in subset.values else ""
        raise ConfigError(f"{subset.name}image_dir is missing{what}: name the folder of images there.")
    for theirs, (ours, kind, default) in OWN.items():
        setattr(source, ours, getattr(subset, kind)(theirs, default))
    return source


def _own_sizes(config: TrainConfig, keys: Keys, shared: Mapping[str, Any]) -> dict[str, int]:
    """What a further dataset's folders have of their own: resolution and bucket limits; what else differs is said."""
    for name in BUCKET_KEYS:
        if name not in ("resolution", "min_bucket_reso", "max_bucket_reso") and keys.values.get(name) != shared[name]:
            keys.note(name, keys.values.get(name), "it is one for all datasets here: the first one's")
    other = TrainConfig()
    _buckets(other, Keys({**keys.values, "enable_bucket": config.dataset.buckets}, keys.left_out, keys.name))
    names = ("resolution", "bucket_min", "bucket_max") if config.dataset.buckets else ("resolution",)
    sizes = {name: getattr(other.dataset, name) for name in names}
    return {name: size for name, size in sizes.items() if size != getattr(config.dataset, name)}


def _without_doubles(sources: list[SourceConfig], subsets: list[Keys]) -> list[SourceConfig]:
    """Each folder once per resolution: a second listing of the same images is more repeats of them."""
    kept: dict[tuple[str, int | str], SourceConfig] = {}
    for source, subset in zip(sources, subsets):
        first = kept.setdefault((source.folder, source.resolution), source)
        if first is not source:
            if isinstance(first.repeats, int) and isinstance(source.repeats, int):
                first.repeats += source.repeats
            reason = "a folder is listed once per resolution: its repeats are added, other options are the first one's"
            subset.note("image_dir", source.folder, reason)
    return list(kept.values())


def _place(config: TrainConfig, sources: list[SourceConfig]) -> None:
    """One training folder becomes the dataset's own, with its options; further ones are listed as sources."""
    data = config.dataset
    learned = [source for source in sources if not source.regularisation]
    if len(learned) == 1 and learned[0].resolution == "same":
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
    sides = _sides(keys)
    side = math.sqrt(sides[0] * sides[-1])
    data.resolution = max(64, round(side / 8) * 8)
    data.buckets = keys.boolean("enable_bucket")
    if len(set(sides)) > 1:
        keys.note("resolution", sides, f"imported as the square of about the same area, {data.resolution} px")
        if not data.buckets:
            data.buckets = True
            keys.note("enable_bucket", False, "a resolution that is not square needs buckets here, so they are on")
    elif data.resolution != sides[0]:
        keys.note("resolution", sides[0], f"sides are multiples of 8 px here: {data.resolution} px")
    step = keys.integer("bucket_reso_steps", 64)
    data.bucket_step = min(512, max(8, round(step / 8) * 8))
    if data.bucket_step != step and data.buckets:
        keys.note("bucket_reso_steps", step, f"bucket sides are multiples of 8 px here: {data.bucket_step} px")
    smallest, largest = keys.integer("min_bucket_reso", 256), keys.integer("max_bucket_reso", 1024)
    data.upscale = not keys.boolean("bucket_no_upscale") if data.buckets else True
    if data.buckets:
        data.bucket_min, data.bucket_max = smallest, largest
    data.validation_fraction = keys.number("validation_split")
    batch = keys.integer("batch_size") or keys.integer("train_batch_size", 1)
    keys.take("train_batch_size")
    config.run.batch_size = batch


def _sides(keys: Keys) -> list[int]:
    """Width and height, in px, of `resolution`: "1024,1024", 1024 or a list."""
    given = keys.values.get("resolution")
    sides = keys.numbers("resolution", [512], "one or two sides in px, such as 1024 or 1024,1024")
    if len(sides) not in (1, 2) or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ConfigError(
            f"{keys.called('resolution')} is {shown(given)}, but must be one or two sides from 1 to {LARGEST_SIDE} px, "
            "such as 1024 or 1024,1024: correct it there."
        )
    whole = [int(side) for side in sides]
    if whole != sides:
        keys.note("resolution", given, f"sides are whole pixels: {', '.join(map(str, whole))}")
    return whole
