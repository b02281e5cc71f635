"""Stable Diffusion as a base: a UNet, CLIP's text encoders and an AutoencoderKL, in one file or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import FAMILIES, TEXT_PARTS, UNET, StableDiffusion, row_of
from adapter_lab.training.bases.common import Base, Device, Sizes, joined_key, with_article
from adapter_lab.training.bases.detect import detect
from adapter_lab.training.bases.diffusers_folder import open_vae
from adapter_lab.training.bases.modules import new_text_encoder, new_unet, new_vae
from adapter_lab.training.bases.single_file import Opened
from adapter_lab.training.bases.text import CaptionFormat, ClipCaptions, TextEncoders, TextOutput, TextStack
from adapter_lab.training.bases.tokenizer import ClipTokenizer, clip_tokenizer
from adapter_lab.training.device.transfer import to_device


@dataclass(frozen=True)
class StableDiffusionBase(Base):
    """An opened Stable Diffusion. `skip`: the hidden state of its text encoders that is read, as hosts count."""

    tokens: ClipTokenizer | None = None
    skip: int = 0

    @property
    def row(self) -> StableDiffusion:
        """The family's table row, or that of the model distilled from it that this is."""
        return row_of(self.family, self.components[UNET].config)

    @property
    def clip_skip(self) -> int:
        return self.skip

    @property
    def resolution(self) -> int:
        """512, 768 (SD2 v-prediction) or 1024 in every released model."""
        unet = self.components[UNET].config
        side: int = unet["sample_size"] * self.latents.scale
        # Of models that are told from others by nothing else, as SD2's for v-prediction.
        return self.row.resolution_of.get(self.prediction, side) if side == self.row.resolution else side

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The base's tokenizer."""
        return self.tokens or clip_tokenizer()

    @property
    def captions(self) -> CaptionFormat:
        return ClipCaptions(self.tokenizer)

    @cached_property
    def text_key(self) -> str:
        tokens = sorted(self.tokenizer.vocabulary.items())
        return joined_key(*(self.components[p].key() for p in self.text_parts), str(self.clip_skip), repr(tokens))

    def new(self, part: str) -> nn.Module:
        config = self.components[part].config
        if part in TEXT_PARTS:
            special = {"bos_token_id": self.tokenizer.start, "eos_token_id": self.tokenizer.end}
            return new_text_encoder({**config, **special}, self.row.text_part(part).pooled)
        return new_unet(config) if part == UNET else new_vae(config)

    def text_stack(self, parts: Mapping[str, nn.Module]) -> TextStack:
        return TextEncoders(self.family, parts, self.tokenizer, self.clip_skip)

    def load_vae(self, dtype: torch.dtype, device: Device = "cpu") -> Any:
        """The AutoencoderKL, frozen; SDXL's overflows in fp16: then in bf16 where the device has it, else in fp32."""
        upcast = self.row.vae.get("force_upcast") and self.components["vae"].config["force_upcast"]
        if dtype == torch.float16 and upcast:
            dtype = torch.bfloat16 if _has_bf16(torch.device(device)) else torch.float32
        return super().load_vae(dtype, device)

    def denoise(self, unet: Any, noisy: Tensor, times: Tensor, text: TextOutput, sizes: Sequence[Sizes]) -> Tensor:
        added = self.added_conditions(sizes, text.pooled)
        found: Tensor = unet(
            noisy, times, encoder_hidden_states=text.hidden, added_cond_kwargs=added, return_dict=False
        )[0]
        return found

    def added_conditions(self, sizes: Sequence[Sizes], pooled: Tensor | None) -> dict[str, Tensor] | None:
        """`added_cond_kwargs` for the UNet of families that are told sizes (SDXL), None for the other families."""
        if not self.row.sized:
            return None
        if pooled is None:
            raise ValueError("this family needs the pooled text output")
        rows = [[*size, *crop, *target] for size, crop, target in sizes]
        # fp32: bf16 has no whole numbers above 256, which pixel sizes exceed. The UNet embeds them before it casts.
        return {"text_embeds": pooled, "time_ids": to_device(torch.tensor(rows, dtype=torch.float32), pooled.device)}

    def blank_text(self, batch: int, length: int) -> TextOutput:
        width = self.components[UNET].config["cross_attention_dim"]
        pooled = None
        for part in self.row.text:
            if part.pooled:
                pooled = torch.empty(batch, self.components[part.key].config["projection_dim"])
        return TextOutput(torch.empty(batch, 77 * length, width), pooled)


def open_stable_diffusion(opened: Opened, config: BaseConfig) -> StableDiffusionBase:
    """The base in a file or folder; raises ConfigError for contradictory settings, FileFormatError without a VAE."""
    path = opened.path
    detection = detect(opened, config)
    components = dict(opened.components)
    vae_path = Path(config.vae).expanduser() if config.vae else None
    if vae_path:
        components["vae"] = open_vae(vae_path, opened.family)
    elif "vae" not in components:
        raise FileFormatError(f"{path} has no VAE; give a VAE file in base.vae.")
    row = row_of(opened.family, opened.components[UNET].config)
    if config.clip_skip and config.clip_skip <= max(part.unused_layers for part in row.text):
        raise ConfigError(
            f"base.clip_skip {config.clip_skip} is not how {row.title} was trained, and no host reads its last layer; "
            f"use 0 or {row.clip_skip}."
        )
    depth = min(components[part].config["num_hidden_layers"] for part in TEXT_PARTS if part in components)
    depth += max(part.unused_layers for part in row.text)  # not loaded, but counted
    clip_skip = config.clip_skip or row.clip_skip
    if clip_skip > depth:
        raise ConfigError(f"base.clip_skip is {clip_skip}, but the text encoder of {path} has only {depth} layers.")
    kind = f" ({row.title}, a smaller one with fewer layers)" if row.of else ""
    findings = [f"{path.name} is {with_article(FAMILIES[opened.family].title)} model{kind}.", *detection.findings]
    if vae_path:
        findings.append(f"The VAE comes from {vae_path}.")
    return StableDiffusionBase(
        path=path,
        family=opened.family,
        shapes=opened.shapes,
        components=components,
        prediction=detection.prediction,
        findings=findings,
        vae_path=vae_path,
        zero_terminal_snr=detection.zero_terminal_snr,
        tokens=opened.tokenizer(),
        skip=clip_skip,
    )


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
