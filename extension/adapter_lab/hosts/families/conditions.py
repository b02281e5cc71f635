"""The web UI's memory of its last prompts' text conditions."""

from __future__ import annotations

import sys

# Lists that begin with the parameters their conditions were computed for, or None: of both prompts, and of hires fix.
OWNERS = ("StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img")
CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")


def forget_conditions() -> None:
    """Have the web UI encode the next prompt again.

    It knows its last prompts by their text alone, so a text encoder patched by a file that has changed since would go
    unnoticed.
    """
    processing = sys.modules.get("modules.processing")
    for owner in (getattr(processing, name, None) for name in OWNERS):
        for cache in (getattr(owner, name, None) for name in CACHES):
            if isinstance(cache, list) and cache:
                cache[0] = None  # in place: an image in the making shares the list
