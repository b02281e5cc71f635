"""Training folders: which images they hold, with what caption file, mask, repeats and class tokens.

kohya's convention is followed: a folder `N_name` means N repeats, and class tokens `name` for images without a
caption. Plain and nested folders work as well.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from adapter_lab.config import DatasetConfig, SourceConfig
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset.captions import CaptionRules
from adapter_lab.training.dataset.images import PICTURE_SUFFIXES, UNREAD_SUFFIXES
from adapter_lab.training.dataset.stated import StatedCaptions

CACHE_FOLDER_NAME = ".adapter-lab-cache"
_KOHYA_FOLDER = re.compile(r"(\d+)_(.*)", re.DOTALL)
# Options of a source that the dataset has for all; dataset.folder is one of those that have the dataset's.
OWN_SIZES = ("resolution", "bucket_min", "bucket_max")
_MASK_FOLDER = "masks"
_MASK_STEM = ".mask"
# A folder of images has a few hundred folders; whole disks, and /proc, which leads to all of them, have more.
MOST_FOLDERS = 10_000
MOST_WAYS = 200
_FILE, _FOLDER, _OTHER = range(3)
_NO_FILE = "no file but a pipe, a socket or a device, which may never end; remove it"
_ELSEWHERE = "a link to a folder that is given as a source of its own, so its images are used there and not here too"


@dataclass(frozen=True)
class Source:
    """A folder of images and the options that hold for all of them; `label` names it in image keys."""

    root: Path
    label: str
    setting: str
    rules: CaptionRules
    class_tokens: str
    repeats: int | Literal["auto"]
    flip: bool
    is_regularisation: bool
    resolution: int = 0
    bucket_min: int = 0
    bucket_max: int = 0

    @property
    def section(self) -> str:
        """What its options are named after: "dataset", or "dataset.sources[0]"."""
        return self.setting.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """An image file, the files that belong to it, and what its folder says about it."""

    path: Path
    key: str
    source: Source
    folder: str
    repeats: int
    class_tokens: str
    caption_name: str  # of the file beside it; "": it has none
    mask: Path | None
    # What a file about many images states as the caption; None: nothing, or the image has a file of its own.
    stated: str | None = None

    @property
    def caption(self) -> Path | None:
        """The caption's file; made when it is asked for, since paths take the most memory of very many images."""
        return self.path.with_name(self.caption_name) if self.caption_name else None


@dataclass
class Listing:
    """What a source's folder holds."""

    pictures: list[FoundPicture] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    orphan_captions: list[Path] = field(default_factory=list)
    shared_captions: list[tuple[Path, list[Path]]] = field(default_factory=list)
    rival_captions: list[tuple[str, str]] = field(default_factory=list)  # the caption's file, and one not used for it
    stated: StatedCaptions = field(default_factory=StatedCaptions)
    below: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def sources_of(config: DatasetConfig, resolution: int) -> list[Source]:
    """The sources of a configuration, in order; `resolution` (px) is that of those without their own.

    A folder may be given several times, each with a resolution of its own. Raises DatasetError for a folder that cannot
    be used.
    """
    given = _given(config)
    if not given:
        raise DatasetError("dataset.folder is empty; give the folder that holds the images to learn from.")
    sources: list[Source] = []
    for setting, options in given:
        root = _existing_folder(options.folder, setting)
        side = resolution if isinstance(options.resolution, str) else options.resolution
        for other in sources:
            if other.root == root and other.resolution == side:
                raise DatasetError(
                    f"{root} is given as {other.setting} and as {setting}, both at {side} px; leave one of them out or "
                    "give one another resolution."
                )
        sources.append(
            Source(
                root=root,
                label=_unique_label(root.name or "pictures", {source.label for source in sources}),
                setting=setting,
                rules=_rules(config, options),
                class_tokens=options.class_tokens.strip(),
                repeats=options.repeats,
                flip=options.flip,
                is_regularisation=options.regularisation,
                resolution=side,
                bucket_min=config.bucket_min if isinstance(options.bucket_min, str) else options.bucket_min,
                bucket_max=config.bucket_max if isinstance(options.bucket_max, str) else options.bucket_max,
            )
        )
    return sources


def _given(config: DatasetConfig) -> list[tuple[str, SourceConfig]]:
    """Every folder a configuration names, with the setting that names it and its options."""
    given: list[tuple[str, SourceConfig]] = []
    if config.folder.strip():
        names = [entry.name for entry in fields(SourceConfig) if entry.name not in OWN_SIZES]
        shared = {name: getattr(config, name) for name in names if hasattr(config, name)}
        given.append(("dataset.folder", SourceConfig(**shared)))
    given += [(f"dataset.sources[{index}].folder", source) for index, source in enumerate(config.sources)]
    if config.regularisation_folder.strip():
        # Class images must not learn the trigger, nor a prefix that may hold it.
        classes = SourceConfig(folder=config.regularisation_folder, regularisation=True, flip=config.flip)
        given.append(("dataset.regularisation_folder", classes))
    return given


def _rules(config: DatasetConfig, options: SourceConfig) -> CaptionRules:
    return CaptionRules(
        trigger=options.trigger.strip(),
        prefix=options.prefix.strip(),
        suffix=options.suffix.strip(),
        keep_tokens=options.keep_tokens,
        keep_tokens_separator=config.keep_tokens_separator.strip(),
        shuffle_tags=config.shuffle_tags,
        tag_dropout=config.tag_dropout,
        caption_dropout=config.caption_dropout,
        wildcards=config.wildcards,
    )


def list_source(source: Source, config: DatasetConfig, others: Iterable[Path] = ()) -> Listing:
    """Walk a source's folder, in the order of names; folders in `others` (other sources', the cache) are left out."""
    listing = Listing()
    suffixes = tuple(_dotted(suffix) for suffix in config.caption_extensions if suffix.strip())
    left_out = {path for path in others if path != source.root}
    for folder, files in _walk(source.root, left_out, listing):
        depth = len(folder.relative_to(source.root).parts)
        used = config.recursive or depth == 0 or (depth == 1 and _KOHYA_FOLDER.fullmatch(folder.name) is not None)
        _list_folder(folder, files, source, suffixes, config.mask == "file", listing if used else None, listing.below)
    return listing


def _list_folder(
    folder: Path,
    files: list[Path],
    source: Source,
    caption_suffixes: tuple[str, ...],
    masks_wanted: bool,
    listing: Listing | None,
    below: list[Path],
) -> None:
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    masks, mask_of = _masks_in(folder, pictures, folder == source.root)
    pictures = [path for path in pictures if path not in mask_of]
    if listing is None:
        below += pictures
        return
    if not masks_wanted:
        listing.skipped += [
            (path, f"mask of {owner.name}; set dataset.mask to `file` to use it") for path, owner in mask_of.items()
        ]
    metadata = listing.stated.read(folder, files)
    captions = {(path.stem, path.suffix.lower()): path for path in reversed(files)}
    owned: dict[Path, list[Path]] = {}
    repeats, class_tokens, name = _folder_options(folder, source)
    for path in pictures:
        own = [captions[path.stem, end] for end in caption_suffixes if (path.stem, end) in captions]
        if not own and (path.stem, ".json") in captions:
            own = [captions[path.stem, ".json"]]
        caption = own[0] if own else None
        stated = listing.stated.of(path)
        rivals = own[1:] + ([listing.stated.files[stated]] if own and stated else [])
        listing.rival_captions += [(own[0].name, rival.name) for rival in rivals]
        if caption is not None:
            owned.setdefault(caption, []).append(path)
        if repeats == 0:
            listing.skipped.append((path, _no_repeats(source, name)))
            continue
        mask = masks.get(path.stem) if masks_wanted else None
        key = _key(source, path)
        text = listing.stated.by_picture[stated] if stated and caption is None else None
        caption_name = caption.name if caption else ""
        found = FoundPicture(path, key, source, name, repeats, class_tokens, caption_name, mask, text)
        listing.pictures.append(found)
    listing.shared_captions += [(caption, owners) for caption, owners in owned.items() if len(owners) > 1]
    stems = {path.stem for path in pictures}
    for path in files:
        suffix = path.suffix.lower()
        if suffix in UNREAD_SUFFIXES:
            listing.skipped.append((path, f"{suffix} files are not read; save it as PNG, JPEG or WebP"))
        elif path in metadata or (suffix == ".json" and path.stem in stems):
            continue
        elif suffix in caption_suffixes:
            if path.stem not in stems:
                listing.orphan_captions.append(path)
        elif suffix not in PICTURE_SUFFIXES:
            listing.ignored[suffix or path.name] += 1


def _masks_in(folder: Path, pictures: list[Path], is_root: bool) -> tuple[dict[str, Path], dict[Path, Path]]:
    """Masks by the stem of their image, and the image each file that is a mask belongs to.

    A mask is `a.mask.png` beside `a.jpg`, or `masks/a.png` below it. Files in a folder `masks` that match no image
    above are images themselves.
    """
    by_stem = {path.stem: path for path in reversed(pictures)}
    masks = {path.stem[: -len(_MASK_STEM)]: path for path in pictures if path.stem.endswith(_MASK_STEM)}
    masks = {stem: path for stem, path in masks.items() if stem in by_stem}
    mask_of = {path: by_stem[stem] for stem, path in masks.items()}
    for path in _files(folder / _MASK_FOLDER):
        if path.stem in by_stem and path.suffix.lower() in PICTURE_SUFFIXES:
            masks.setdefault(path.stem, path)
    if folder.name == _MASK_FOLDER and not is_root:
        above = {path.stem: path for path in _files(folder.parent) if path.suffix.lower() in PICTURE_SUFFIXES}
        mask_of |= {path: above[path.stem] for path in pictures if path.stem in above}
    return masks, mask_of


def _folder_options(folder: Path, source: Source) -> tuple[int, str, str]:
    """Repeats and class tokens of the images in `folder`, from the nearest `N_name` folder; its name for reports."""
    within = [folder, *folder.parents][: len(folder.relative_to(source.root).parts) + 1]
    for candidate in within:
        match = _KOHYA_FOLDER.fullmatch(candidate.name)
        if match:
            tokens = source.class_tokens or match[2].strip()
            repeats = int(match[1]) if isinstance(source.repeats, str) else source.repeats
            return (repeats, tokens, candidate.name)
    repeats = 1 if isinstance(source.repeats, str) else source.repeats
    return (repeats, source.class_tokens, folder.name or source.label)


def _no_repeats(source: Source, folder: str) -> str:
    """Why the images of a folder are not used."""
    if source.repeats == 0:
        return f"the repeats of {source.section} are 0; set them to auto to use it"
    return f"its folder {folder} asks for 0 repeats; rename the folder to use it"


def explain_empty(source: Source, listing: Listing, recursive: bool) -> DatasetError:
    """The error for a source without a single image, with what was found in their place."""
    root, setting = source.root, source.setting
    if listing.below and not recursive:
        return DatasetError(
            f"{root} ({setting}) has no images itself, but {len(listing.below)} in subfolders such as "
            f"{listing.below[0].parent.relative_to(root)}; switch dataset.recursive on or name the subfolder."
        )
    if listing.skipped:
        shown = "; ".join(f"{path.name}: {reason}" for path, reason in listing.skipped[:3])
        more = f"; and {len(listing.skipped) - 3} more" if len(listing.skipped) > 3 else ""
        return DatasetError(f"No image in {root} ({setting}) can be used ({shown}{more}); mend these or add others.")
    if listing.orphan_captions:
        return DatasetError(
            f"{root} ({setting}) holds captions ({len(listing.orphan_captions)}) but no images; put the images "
            f"(png, jpg, webp, ...) beside them, such as {listing.orphan_captions[0].with_suffix('.png').name}."
        )
    found = ", ".join(f"{count} {name}" for name, count in listing.ignored.most_common(4))
    return DatasetError(
        f"{root} ({setting}) holds no images{f' (but {found})' if found else ''}; "
        "put images (png, jpg, webp, ...) there or name another folder."
    )


def _existing_folder(given: str, setting: str) -> Path:
    text = given.strip().strip("\"'")  # as Windows copies paths
    path = Path(os.path.abspath(Path(text).expanduser()))
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise DatasetError(f"{setting} is a file, {path}; name the folder it lies in, {path.parent}.")
    hint = ""
    if path.parent.is_dir():
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
        near = near or [name for name in names if name.casefold() == path.name.casefold()]
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    else:
        above = next(parent for parent in path.parents if parent.is_dir())
        hint = f" Of its path only {above} exists."
    raise DatasetError(f"The folder {path} ({setting}) does not exist; check its spelling.{hint}")


def too_many_folders(root: Path) -> DatasetError:
    """What to say of a folder with more folders below it than a folder of images has."""
    return DatasetError(
        f"There are more than {MOST_FOLDERS:,} folders below {root}, links counted: choose the folder of your images "
        "itself."
    )


def _walk(root: Path, left_out: set[Path], listing: Listing) -> Iterator[tuple[Path, list[Path]]]:
    """Yield (folder, its files) for `root` and every folder below it, but for hidden ones and `left_out`.

    A folder that several links lead to is yielded by each of its names, since each may ask for repeats of its own; only
    a link to a folder that it lies in leads nowhere. Raises DatasetError where links multiply without sense.
    """
    ways: Counter[str] = Counter()
    pending, walked = [(root, frozenset[str]())], 0
    while pending:
        folder, above = pending.pop()
        real = os.path.realpath(folder)
        if real in above:
            continue
        ways[real] += 1
        walked += 1
        if walked > MOST_FOLDERS:
            raise too_many_folders(root)
        if ways[real] > MOST_WAYS:
            raise DatasetError(f"Links below {root} lead to {real} in more than {MOST_WAYS} ways; remove some of them.")
        found = [(path, _mode(path)) for path in _entries(folder)]
        listing.skipped += [(path, _NO_FILE) for path, mode in found if mode == _OTHER]
        yield folder, [path for path, mode in found if mode == _FILE]
        inner = [path for path, mode in found if mode == _FOLDER and path.name != "__MACOSX"]
        elsewhere = {path for path in inner if path.resolve() in left_out}
        listing.skipped += [(path, _ELSEWHERE) for path in elsewhere if path.is_symlink()]
        pending += [(path, above | {real}) for path in reversed(inner) if path not in elsewhere]


def _entries(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
        # As paths of one folder compare, which would leave parts of each in memory.
        return sorted(found, key=lambda path: os.path.normcase(path.name))
    except (NotADirectoryError, FileNotFoundError):
        return []
    except OSError as error:
        raise DatasetError(f"The folder {folder} cannot be read ({error.strerror}); check its permissions.") from error


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if _mode(path) == _FILE]


def _mode(path: Path) -> int:
    """What lies there; a link that leads nowhere counts as a file, which is then said to be missing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return _FILE
    return _FOLDER if stat.S_ISDIR(mode) else _FILE if stat.S_ISREG(mode) else _OTHER


def _key(source: Source, path: Path) -> str:
    inner = unicodedata.normalize("NFC", path.relative_to(source.root).as_posix())
    return f"{source.label}/{inner}".encode("utf-8", "backslashreplace").decode("utf-8")


def _dotted(suffix: str) -> str:
    suffix = suffix.strip().lower()
    return suffix if suffix.startswith(".") else f".{suffix}"


def _unique_label(name: str, taken: set[str]) -> str:
    label, number = name, 2
    while label in taken:
        label, number = f"{name}-{number}", number + 1
    return label
