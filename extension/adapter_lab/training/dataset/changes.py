"""What a run remembers of its images and captions, so that a later session can say which of them changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_lab.training.dataset.dataset import Dataset

# Per image by its key: short digests of its bytes (and its mask's), of its caption, and of how it is used.
Contents = dict[str, list[str]]
_SHOWN = 5


def contents(dataset: Dataset) -> Contents:
    """What is remembered of the images that are trained on."""
    return {
        item.key: [
            _short([item.digest, item.mask_digest]),
            _short(item.caption_lines),
            _short([item.repeats, item.bucket, item.placement.resized, item.source.flip, item.is_regularisation,
                    sorted(vars(item.source.rules).items())]),
        ]
        for item in dataset.items
    }  # fmt: skip


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is not as it was, such as "the caption of 1 image (a.png)"; nothing where nothing is known of before."""
    if not before:
        return []
    both = [key for key in after if key in before]
    found = [
        (f"the {what} of", [key for key in both if before[key][index] != after[key][index]])
        for index, what in enumerate(("content", "caption", "repeats, size or caption rules"))
    ]
    found += [
        ("the addition of", [key for key in after if key not in before]),
        ("the loss of", [key for key in before if key not in after]),
    ]
    return [f"{what} {_pictures(keys)}" for what, keys in found if keys]


def _pictures(keys: Iterable[str]) -> str:
    names = [PurePosixPath(key).name for key in keys]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} image{'' if len(names) == 1 else 's'} ({', '.join(names[:_SHOWN])}{more})"


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:16]
