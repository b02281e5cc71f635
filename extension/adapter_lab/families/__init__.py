"""Every family of base models that can be trained, one row each. Imports no torch.

What builds a family's modules lies in `training.bases`; which tensors tell a checkpoint's family in `adapters.layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_lab.families.anima import ANIMA
from adapter_lab.families.koala import KOALA_1B, KOALA_700M
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
from adapter_lab.families.ssd1b import SSD1B
from adapter_lab.families.vega import VEGA

UNETS: dict[str, StableDiffusion] = {row.key: row for row in (SD15, SD2, SDXL)}
TRANSFORMERS: dict[str, DiffusionTransformer] = {row.key: row for row in (ANIMA,)}
FAMILIES: dict[str, Family] = {**UNETS, **TRANSFORMERS}
# Models distilled from one of them (`Family.of`), and every row that a run can be configured for.
DISTILLED: dict[str, StableDiffusion] = {row.key: row for row in (SSD1B, VEGA, KOALA_1B, KOALA_700M)}
BASES: dict[str, Family] = {**UNETS, **DISTILLED, **TRANSFORMERS}
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


def row_of(family: str, unet: Mapping[str, Any]) -> StableDiffusion:
    """The row of a UNet with this configuration: of the model distilled from `family` that it is, else `family`'s."""
    row = UNETS[family]
    own = (small for small in DISTILLED.values() if small.of == family)
    return next((small for small in own if _is(unet, row.unet, small.unet)), row)


def _is(unet: Mapping[str, Any], whole: Mapping[str, Any], small: Mapping[str, Any]) -> bool:
    """Whether a UNet is `small` in all that tells it from `whole`."""
    return all(unet.get(key) == value for key, value in small.items() if key not in whole or whole[key] != value)


__all__ = [
    "BASES",
    "DISTILLED",
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
    "row_of",
]
