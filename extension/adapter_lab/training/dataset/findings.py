"""What a person should be told about a training folder: one sentence per kind of finding, with examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset.captions import unbalanced_braces
from adapter_lab.training.dataset.samples import Item
from adapter_lab.training.dataset.sources import Listing

_EXAMPLES = 5
_NEARLY_KOHYA = re.compile(r"^(\d{1,3})[ -]+(?=[^\W\d])")
MANY_REPEATS = 500  # more than anyone means; a year at the start of a folder's name gives 2024
LITTLE_KEPT = 0.75
SMALL_AREA = 0.25


def folder_findings(listing: Listing, config: DatasetConfig) -> list[str]:
    """Findings about the files of a source."""
    found = [
        f"{_names(owners)} share the caption {caption.name}; rename one of them if they need captions of their own."
        for caption, owners in listing.shared_captions
    ]
    found += _stated_findings(listing)
    if listing.orphan_captions:
        hint = ""
        doubled = next((path for path in listing.orphan_captions if Path(path.stem).suffix), None)
        if doubled is not None:
            hint = f", such as {doubled.name} to {Path(doubled.stem).with_suffix(doubled.suffix).name}"
        found.append(
            f"{_files(listing.orphan_captions, 'caption file')}: no image of that name; name captions like their "
            f"images{hint}."
        )
    if listing.below:
        found.append(
            f"{_files(listing.below, 'image')}: left out (in subfolders); switch dataset.recursive on to use them."
        )
    folders = sorted({picture.folder for picture in listing.pictures})
    near_misses = [(name, _NEARLY_KOHYA.sub(r"\1_", name)) for name in folders if _NEARLY_KOHYA.match(name)]
    found += [
        f"The folder {name} looks like kohya's `N_name` but for the underscore, so its number is not taken as repeats; "
        f"rename it {meant} if it is meant."
        for name, meant in near_misses
    ]
    many = {picture.folder: picture.repeats for picture in listing.pictures if picture.repeats >= MANY_REPEATS}
    found += [
        f"The images of folder {name} are repeated {repeats} times per epoch; if its number is not meant as repeats, "
        "rename it or set dataset.repeats."
        for name, repeats in many.items()
    ]
    return found


def _stated_findings(listing: Listing) -> list[str]:
    """Findings about captions that are not in a text file beside their image, or that are there twice."""
    found = list(listing.stated.problems)
    if listing.rival_captions:
        pairs = [f"{used} and not {other}" for used, other in listing.rival_captions[:_EXAMPLES]]
        more = len(listing.rival_captions) - len(pairs)
        found.append(
            f"{len(listing.rival_captions)} captions are there twice, of which one is used: {', '.join(pairs)}"
            f"{f' and {more} more' if more else ''}; remove the others, or choose by dataset.caption_extensions."
        )
    if count := sum(picture.stated is not None for picture in listing.pictures):
        files = _names(dict.fromkeys(listing.stated.files.values()))
        found.append(f"{_count(count, 'caption')}: read from {files}.")
    if unused := list(listing.stated.unused):
        found.append(f"{_files(unused, 'caption')} of a metadata file: no image of that name.")
    own = [p.caption for p in listing.pictures if p.caption_name.lower().endswith(".json") and p.caption]
    if own:
        found.append(f"{_files(own, 'caption')}: read from .json.")
    return found


def item_findings(items: Sequence[Item], config: DatasetConfig) -> list[str]:
    """Findings about the images that are used."""
    found = _duplicate_findings(items)
    small = [item for item in items if item.bucket[0] * item.bucket[1] < SMALL_AREA * item.source.resolution**2]
    if small:
        found.append(
            f"{_items(small, 'image')}: less than a quarter of the training resolution's area, so trained small; "
            "larger copies would teach more."
        )
    enlarged = [item for item in items if item.placement.scale > 1]
    if enlarged:
        most = max(item.placement.scale for item in enlarged)
        found.append(f"{_items(enlarged, 'image')}: enlarged, up to {most:.1f} times.")
    cropped = [item for item in items if item.placement.kept < LITTLE_KEPT]
    if cropped:
        found.append(
            f"{_items(cropped, 'image')}: more than a quarter is lost by cropping; a smaller dataset.bucket_step or "
            "wider limits of the bucket sides keep more."
        )
    return found + _caption_findings(items, config) + _mask_findings(items, config)


def _caption_findings(items: Sequence[Item], config: DatasetConfig) -> list[str]:
    found = []
    if config.wildcards:
        torn = [item for item in items if any(unbalanced_braces(line) for line in item.caption_lines)]
        if torn:
            found.append(f"{_items(torn, 'caption')}: a brace without a partner, so used as written.")
    else:
        longer = [item for item in items if len(item.caption_lines) > 1]
        if longer:
            found.append(
                f"{_items(longer, 'caption')}: several lines, of which only the first is used; join the lines, or set "
                "dataset.wildcards to choose one at random."
            )
    if config.keep_tokens_separator.strip():
        separator = config.keep_tokens_separator.strip()
        if not any(separator in line for item in items for line in item.caption_lines):
            found.append(f"No caption holds the dataset.keep_tokens_separator {separator!r}.")
    return found


def _mask_findings(items: Sequence[Item], config: DatasetConfig) -> list[str]:
    if config.mask == "none":
        return []
    bare = [item for item in items if not item.has_mask]
    wanted = "alpha channel" if config.mask == "alpha" else "mask file"
    if len(bare) == len(items):
        return [f"dataset.mask is `{config.mask}`, but no image has one, so every image is learned as a whole."]
    return [f"{_items(bare, 'image')}: no {wanted}, so learned as a whole."] if bare else []


def remark_finding(remark: str, paths: Sequence[Path], what: str) -> str:
    """`remark` about files as one sentence, such as "2 captions (a.txt, b.txt): not UTF-8, read as Latin-1."."""
    return f"{_files(paths, what)}: {remark}."


def _duplicate_findings(items: Sequence[Item]) -> list[str]:
    """Images of equal content: by name, and as one sentence for folders that share many, such as two links to one."""
    # The same image at several resolutions is meant.
    groups: dict[tuple[str, int], list[Path]] = {}
    for item in items:
        groups.setdefault((item.digest, item.source.resolution), []).append(item.path)
    by_folders: dict[tuple[Path, ...], list[list[Path]]] = {}
    for group in groups.values():
        if len(group) > 1:
            by_folders.setdefault(tuple(sorted({path.parent for path in group})), []).append(group)
    found = []
    for folders, shared in by_folders.items():
        if len(shared) > _EXAMPLES:
            where = f"are in each of {_names(folders)}" if len(folders) > 1 else f"of {folders[0].name} are there twice"
            found.append(f"{len(shared)} images {where}; if that is not meant, leave one out.")
        else:
            found += [f"{_names(group)} are the same image; if that is not meant, leave one out." for group in shared]
    return found


def _items(items: Sequence[Item], what: str) -> str:
    return _files([item.path for item in items], what)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _files(paths: Sequence[Path], what: str) -> str:
    return f"{_count(len(paths), what)} ({_names(paths)})"


def _names(paths: Iterable[Path]) -> str:
    given = list(paths)
    names = [path.name for path in given]
    if len(set(names)) < len(names):  # the same name in several folders
        names = [f"{path.parent.name}/{path.name}" for path in given]
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more
