"""Stand-in for `modules.processing`: the memory of the last prompts' conditions."""

from typing import Any, ClassVar


class StableDiffusionProcessing:
    """Parameters of a generation."""

    cached_uc: ClassVar[list[Any]] = [None, None]
    cached_c: ClassVar[list[Any]] = [None, None]


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """Parameters of text to image."""

    cached_hr_uc: ClassVar[list[Any]] = [None, None]
    cached_hr_c: ClassVar[list[Any]] = [None, None]
