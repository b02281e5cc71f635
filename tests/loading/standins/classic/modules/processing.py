"""Stand-in of modules/processing.py: the last prompt's conditions are kept by its text and adapter tags."""


class StableDiffusionProcessing:
    cached_uc = [None, None]  # noqa: RUF012
    cached_c = [None, None]  # noqa: RUF012


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    cached_hr_uc = [None, None]  # noqa: RUF012
    cached_hr_c = [None, None]  # noqa: RUF012
