"""A base model: what is known of it from headers alone, and its modules when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import FAMILIES, TEXT_PARTS, Family, LatentFormat, smaller_name
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.detect import STATED, detect
from adapter_lab.training.bases.diffusers_folder import open_any, open_vae
from adapter_lab.training.bases.modules import new_text_encoder, new_unet, new_vae
from adapter_lab.training.bases.single_file import Opened
from adapter_lab.training.bases.text import CaptionFormat, ClipCaptions, TextEncoders, TextOutput
from adapter_lab.training.bases.tokenizer import ClipTokenizer
from adapter_lab.training.device.transfer import to_device
from adapter_lab.training.objective.objective import Objective, objective_of

Device = torch.device | str
# Original (height, width), crop (top, left) and target (height, width) of an image, in px.
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Base:
    """An opened base; nothing but headers is in memory.

    `shapes` has the single file's (LDM) tensor names, also for a diffusers folder. `findings` are sentences about what
    was detected and how. `clip_skip` counts as hosts do.
    """

    opened: Opened
    components: Mapping[str, Component]
    prediction: str
    zero_terminal_snr: bool
    clip_skip: int
    findings: list[str]
    vae_path: Path | None = None

    @property
    def path(self) -> Path:
        """The checkpoint file or diffusers folder."""
        return self.opened.path

    @property
    def name(self) -> str:
        """The checkpoint's name without ending."""
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def family(self) -> str:
        """ "sd15", "sd2" or "sdxl"."""
        return self.opened.family

    @property
    def row(self) -> Family:
        """The family's table row."""
        return FAMILIES[self.family]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor names and shapes of the single file."""
        return self.opened.shapes

    @property
    def text_parts(self) -> list[str]:
        """The text encoders: ["te1"] or ["te1", "te2"]."""
        return [part for part in TEXT_PARTS if part in self.components]

    @cached_property
    def latents(self) -> LatentFormat:
        """How its VAE's latents are scaled: 8 pixels per latent and 4 channels in every released model."""
        return latent_format(self.components["vae"].config)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square the base was trained on: 512, 768 (SD2 v-prediction), 1024."""
        unet = self.components["unet"].config
        side: int = unet["sample_size"] * self.latents.scale
        # Of models that are told from others by nothing else, as SD2's for v-prediction.
        return self.row.resolution_of.get(self.prediction, side) if side == self.row.resolution else side

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The base's tokenizer."""
        return self.opened.tokenizer()

    @property
    def captions(self) -> CaptionFormat:
        """How long captions are for it, and how their encodings are put together."""
        return ClipCaptions(self.tokenizer)

    @cached_property
    def content_key(self) -> str:
        """A key of the whole base's content, for caches: equal for a copy, another after fine-tuning."""
        return _joined(*(self.components[part].key() for part in sorted(self.components)))

    @cached_property
    def vae_key(self) -> str:
        """A key of the VAE's content."""
        return self.components["vae"].key()

    @cached_property
    def text_key(self) -> str:
        """A key of the text encoders' content, their tokenizer and clip skip."""
        tokens = sorted(self.tokenizer.vocabulary.items())
        return _joined(*(self.components[p].key() for p in self.text_parts), str(self.clip_skip), repr(tokens))

    def _build(self, part: str) -> Any:
        config = self.components[part].config
        if part in TEXT_PARTS:
            special = {"bos_token_id": self.tokenizer.start, "eos_token_id": self.tokenizer.end}
            return new_text_encoder({**config, **special}, self.row.text_part(part).pooled)
        return new_unet(config) if part == "unet" else new_vae(config)

    def load_unet(self, dtype: torch.dtype, device: Device = "cpu") -> Any:
        """The UNet2DConditionModel, frozen, in eval mode."""
        return self.components["unet"].load(lambda: self._build("unet"), dtype, device)

    def load_vae(self, dtype: torch.dtype, device: Device = "cpu") -> Any:
        """The AutoencoderKL, frozen; SDXL's overflows in fp16: then in bf16 where the device has it, else in fp32."""
        component = self.components["vae"]
        if dtype == torch.float16 and self.row.vae.get("force_upcast") and component.config["force_upcast"]:
            dtype = torch.bfloat16 if _has_bf16(torch.device(device)) else torch.float32
        return component.load(lambda: self._build("vae"), dtype, device)

    def load_text_encoders(self, dtype: torch.dtype, device: Device = "cpu") -> TextEncoders:
        """The text encoders, frozen, with their tokenizer."""
        parts = {
            part: self.components[part].load(lambda part=part: self._build(part), dtype, device)  # type: ignore[misc]
            for part in self.text_parts
        }
        return TextEncoders(self.family, parts, self.tokenizer, self.clip_skip)

    def check(self) -> None:
        """Raise FileFormatError where a part of the file cannot be loaded, so that nothing is done in vain before."""
        for part, component in self.components.items():
            component.check(lambda part=part: self._build(part), whole=part == "unet")  # type: ignore[misc]

    def objective(self) -> Objective:
        """What it is trained for: diffusion on Stable Diffusion's schedule of 1000 steps, or rectified flow."""
        return objective_of(self.prediction, self.zero_terminal_snr)

    def denoise(self, unet: Any, noisy: Tensor, times: Tensor, text: TextOutput, sizes: Sequence[Sizes]) -> Tensor:
        """The UNet's answer (B, C, h, w) to `noisy` latents at `times` (B,), in its own format.

        `sizes`: of each image, for families that are told them (SDXL).
        """
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

    def metadata(self) -> dict[str, str]:
        """The `ss_*` and `modelspec.*` entries of an adapter file that the base decides."""
        found = {
            "ss_base_model_version": self.row.versions[self.prediction],
            "ss_v2": str(self.row.second),
            "ss_sd_model_name": self.path.name,
            "ss_clip_skip": str(self.clip_skip),
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


def latent_format(config: Mapping[str, Any]) -> LatentFormat:
    """The latents of a VAE by its diffusers configuration."""
    return LatentFormat(
        channels=config["latent_channels"],
        scale=2 ** (len(config["block_out_channels"]) - 1),
        factor=config["scaling_factor"],
        shift=config.get("shift_factor") or 0.0,
    )


def open_base(config: BaseConfig) -> Base:
    """Open the base a run is configured for, reading headers only.

    Raises ConfigError for contradictory settings and FileFormatError for a file that is no trainable base.
    """
    if not config.checkpoint:
        raise ConfigError("base.checkpoint is empty; give it a .safetensors or .ckpt file or a diffusers folder.")
    path = Path(config.checkpoint).expanduser()
    opened = open_any(path)
    if config.family not in ("auto", opened.family):
        raise ConfigError(
            f"base.family is {config.family}, but {path} is {FAMILIES[opened.family].title}; set base.family to auto."
        )
    detection = detect(opened, config)
    components = dict(opened.components)
    vae_path = Path(config.vae).expanduser() if config.vae else None
    if vae_path:
        components["vae"] = open_vae(vae_path, opened.family)
    elif "vae" not in components:
        raise FileFormatError(f"{path} has no VAE; give a VAE file in base.vae.")
    row = FAMILIES[opened.family]
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
    smaller = smaller_name(opened.family, components["unet"].config)
    kind = f" ({smaller}, a smaller one with fewer layers)" if smaller else ""
    findings = [f"{path.name} is {_a(row.title)} model{kind}.", *detection.findings]
    if vae_path:
        findings.append(f"The VAE comes from {vae_path}.")
    return Base(
        opened=opened,
        components=components,
        prediction=detection.prediction,
        zero_terminal_snr=detection.zero_terminal_snr,
        clip_skip=clip_skip,
        findings=findings,
        vae_path=vae_path,
    )


def legacy_hash(path: Path) -> str:
    """The short hash web UIs show for a checkpoint: SHA-256 of 64 KiB at 1 MiB, 8 digits; "" for a folder."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _a(title: str) -> str:
    return f"an {title}" if title[0] in "AEIOS" else f"a {title}"


def _joined(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
