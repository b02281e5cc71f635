"""Every family of base models that can be trained, one row each. Imports no torch.

What builds a family's modules lies in `training.bases`; which tensors tell a checkpoint's family in `adapters.layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_lab.families.anima import ANIMA
from adapter_lab.families.row import (
    UNET,
    ClipPart,
    DiffusionTransformer,
    Family,
    LatentFormat,
    Probe,
    StableDiffusion,
    TextPart,
)
from adapter_lab.families.sd2 import SD2
from adapter_lab.families.sd15 import SD15
from adapter_lab.families.sdxl import SDXL

UNETS: dict[str, StableDiffusion] = {row.key: row for row in (SD15, SD2, SDXL)}
TRANSFORMERS: dict[str, DiffusionTransformer] = {row.key: row for row in (ANIMA,)}
FAMILIES: dict[str, Family] = {**UNETS, **TRANSFORMERS}
# Every part of any family, those that all have first; and the folders of a diffusers pipeline they lie in.
TEXT_PARTS: tuple[str, ...] = tuple(dict.fromkeys(part for row in FAMILIES.values() for part in row.text_parts))
PARTS: tuple[str, ...] = (UNET, *TEXT_PARTS)
_TEXT = {part.key: part for row in reversed(FAMILIES.values()) for part in row.text}
# Those that `network.train_te` switches on and off together.
ENCODERS: tuple[str, ...] = tuple(key for key, part in _TEXT.items() if part.switch == "train_te")
TITLES: dict[str, str] = {UNET: "UNet", "vae": "VAE", **{key: part.title for key, part in _TEXT.items()}}
FOLDERS: dict[str, str] = {key: part.folder for key, part in _TEXT.items()}


def of_unet(sized: bool, linear: bool) -> StableDiffusion:
    """The family whose UNet is told sizes or not, and has such projections (`Family.linear`)."""
    return next(row for row in UNETS.values() if row.sized == sized and (sized or row.linear == linear))


def smaller_name(family: str, unet: Mapping[str, Any]) -> str:
    """What a smaller model of a family is called, by its UNet's configuration; "" for all others."""
    rows = UNETS[family].smaller.items()
    return next((name for name, row in rows if all(unet.get(key) == value for key, value in row.items())), "")


__all__ = [
    "ENCODERS",
    "FAMILIES",
    "FOLDERS",
    "PARTS",
    "TEXT_PARTS",
    "TITLES",
    "TRANSFORMERS",
    "UNET",
    "UNETS",
    "ClipPart",
    "DiffusionTransformer",
    "Family",
    "LatentFormat",
    "Probe",
    "StableDiffusion",
    "TextPart",
    "of_unet",
    "smaller_name",
]
