"""A base model: what is known of it from headers alone, and its modules when they are needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.families import FAMILIES, TEXT_PARTS, UNET, Family, LatentFormat
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.detect import STATED
from adapter_lab.training.bases.text import CaptionFormat, TextOutput, TextStack
from adapter_lab.training.bases.vae import latent_format
from adapter_lab.training.objective.objective import Objective, objective_of

Device = torch.device | str
# Original (height, width), crop (top, left) and target (height, width) of an image, in px.
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Base(ABC):
    """An opened base; nothing but headers is in memory.

    `shapes` has the tensor names of the file with the denoiser and of those beside it; a single file's (LDM) also for a
    diffusers folder. `findings` are sentences about what was detected and how.
    """

    path: Path
    family: str
    shapes: dict[str, tuple[int, ...]]
    components: Mapping[str, Component]
    prediction: str
    findings: list[str]
    vae_path: Path | None = None
    zero_terminal_snr: bool = False

    @property
    def name(self) -> str:
        """The checkpoint's name without ending."""
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def row(self) -> Family:
        """The family's table row."""
        return FAMILIES[self.family]

    @property
    def text_parts(self) -> list[str]:
        """What reads captions: ["te1"], ["te1", "te2"], ["te1", "conditioner"]."""
        return [part for part in TEXT_PARTS if part in self.components]

    @cached_property
    def latents(self) -> LatentFormat:
        """How its VAE's latents are scaled: 8 pixels per latent in every released model."""
        return latent_format(self.components["vae"].config, self.row.latent)

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Side in pixels of the square the base was trained on."""

    @property
    @abstractmethod
    def captions(self) -> CaptionFormat:
        """How long captions are for it, and how their encodings are put together."""

    @cached_property
    def content_key(self) -> str:
        """A key of the whole base's content, for caches: equal for a copy, another after fine-tuning."""
        return joined_key(*(self.components[part].key() for part in sorted(self.components)))

    @cached_property
    def vae_key(self) -> str:
        """A key of the VAE's content."""
        return self.components["vae"].key()

    @property
    @abstractmethod
    def text_key(self) -> str:
        """A key of all that encodings of captions depend on."""

    @property
    def clip_skip(self) -> int:
        """The hidden state of its text encoders that is read, as hosts count; 0: there is no choice."""
        return 0

    @abstractmethod
    def new(self, part: str) -> nn.Module:
        """A part with fresh weights, by its configuration."""

    @abstractmethod
    def text_stack(self, parts: Mapping[str, nn.Module]) -> TextStack:
        """What encodes captions, of the modules of its `text_parts`."""

    def load_unet(self, dtype: torch.dtype, device: Device = "cpu") -> Any:
        """The denoiser, frozen, in eval mode."""
        return self._load(UNET, dtype, device)

    def load_vae(self, dtype: torch.dtype, device: Device = "cpu") -> Any:
        """The VAE, frozen, in eval mode."""
        return self._load("vae", dtype, device)

    def load_text_encoders(self, dtype: torch.dtype, device: Device = "cpu") -> TextStack:
        """The text encoders, frozen, with their tokenizer."""
        return self.text_stack({part: self._load(part, dtype, device) for part in self.text_parts})

    def _load(self, part: str, dtype: torch.dtype, device: Device) -> nn.Module:
        return self.components[part].load(lambda: self.new(part), dtype, device)

    def check(self) -> None:
        """Raise FileFormatError where a part of the file cannot be loaded, so that nothing is done in vain before."""
        for part, component in self.components.items():
            component.check(lambda part=part: self.new(part), whole=part == UNET)  # type: ignore[misc]

    def objective(self) -> Objective:
        """What it is trained for: diffusion on Stable Diffusion's schedule of 1000 steps, or rectified flow."""
        return objective_of(self.prediction, self.zero_terminal_snr, self.row.times)

    def remarks(self, trained: Sequence[str], dtype: torch.dtype) -> list[str]:
        """What to say before training these of its `text_parts`, computing in this number format."""
        return []

    @abstractmethod
    def denoise(self, unet: Any, noisy: Tensor, times: Tensor, text: TextOutput, sizes: Sequence[Sizes]) -> Tensor:
        """The denoiser's answer (B, C, h, w) to `noisy` latents at `times` (B,), in its own format.

        `sizes`: of each image, for families that are told them (SDXL).
        """

    @abstractmethod
    def blank_text(self, batch: int, length: int) -> TextOutput:
        """Text of the shape that captions of `length` units (`CaptionFormat`) are encoded to, without values."""

    def metadata(self) -> dict[str, str]:
        """The `ss_*` and `modelspec.*` entries of an adapter file that the base decides."""
        found = {
            "ss_base_model_version": self.row.versions[self.prediction],
            "ss_v2": str(self.row.second),
            "ss_sd_model_name": self.path.name,
            **({"ss_clip_skip": str(self.clip_skip)} if self.clip_skip else {}),
            "ss_v_parameterization": str(self.prediction == "v_prediction"),
            "ss_zero_terminal_snr": str(self.zero_terminal_snr),
            "modelspec.architecture": f"{self.row.architectures[self.prediction]}/lora",
            "modelspec.prediction_type": STATED[self.prediction],
        }
        if short := legacy_hash(self.path):
            found["ss_sd_model_hash"] = short
        if self.vae_path:
            found["ss_vae_name"] = self.vae_path.name
        return found


def legacy_hash(path: Path) -> str:
    """The short hash web UIs show for a checkpoint: SHA-256 of 64 KiB at 1 MiB, 8 digits; "" for a folder."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def with_article(title: str) -> str:
    """A title behind "a" or "an"."""
    return f"an {title}" if title[0] in "AEIOS" else f"a {title}"


def joined_key(*texts: str) -> str:
    """A key of several texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
