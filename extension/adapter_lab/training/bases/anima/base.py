"""Anima as a base: opened from its three files, a file with all of it or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.anima import LARGE, MIDDLE, SMALL, prefix_of
from adapter_lab.adapters.keys import family_of
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import TITLES, TRANSFORMERS, UNET, DiffusionTransformer
from adapter_lab.training.bases.anima.files import (
    DIFFUSERS_VAE_MARK,
    TEXT_MARK,
    VAE_MARK,
    find,
    has_tensor,
    open_folder,
    open_part,
    stated_side,
    text_part,
    transformer_parts,
    vae_part,
)
from adapter_lab.training.bases.anima.modules import new_part
from adapter_lab.training.bases.anima.text import AnimaCaptions, AnimaText, AnimaTokens, own_tokens, released_tokens
from adapter_lab.training.bases.common import Base, Sizes, joined_key, with_article
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.text import CaptionFormat, TextOutput, TextStack
from adapter_lab.training.objective.objective import FLOW, STEPS

ROW = TRANSFORMERS["anima"]
BLOCKS = (SMALL, MIDDLE, LARGE)


@dataclass(frozen=True)
class AnimaBase(Base):
    """An opened Anima. `tokens` None: those of every released one; `masked`: an empty caption shows nothing."""

    tokens: AnimaTokens | None = None
    masked: bool = False
    side: int = ROW.resolution

    @property
    def row(self) -> DiffusionTransformer:
        return ROW

    @property
    def resolution(self) -> int:
        return self.side

    @property
    def tokenizers(self) -> AnimaTokens:
        """The tokenizers of its text encoder and its conditioner."""
        return self.tokens or released_tokens()

    @property
    def captions(self) -> CaptionFormat:
        return AnimaCaptions(self.tokenizers)

    @cached_property
    def text_key(self) -> str:
        keys = (self.components[part].key() for part in self.text_parts)
        return joined_key(*keys, self.tokenizers.key(), *(["masked"] if self.masked else []))

    def new(self, part: str) -> nn.Module:
        return new_part(part, self.components[part].config)

    def text_stack(self, parts: Mapping[str, nn.Module]) -> TextStack:
        return AnimaText(parts, self.tokenizers, self.masked)

    def remarks(self, trained: Sequence[str], dtype: torch.dtype) -> list[str]:
        found = []
        if "te1" in trained:
            found.append(
                "Anima's text encoder is trained: Forge Neo reads its part of the file, but ComfyUI and other web UIs "
                "were seen not to. Train the text conditioner instead (network.train_conditioner), or neither."
            )
        if dtype == torch.float16:
            found.append(
                "Anima's activations overflow in fp16 here and there, which then ends the run: set precision.mixed to "
                "bf16 where the GPU has it, else to fp32."
            )
        return found

    def denoise(self, unet: Any, noisy: Tensor, times: Tensor, text: TextOutput, sizes: Sequence[Sizes]) -> Tensor:
        # One channel says which pixels are padding: none.
        film = torch.cat([noisy, torch.zeros_like(noisy[:, :1])], dim=1)[:, :, None]
        found: Tensor = unet(film, times.float() / STEPS, text.hidden, return_dict=False)[0]
        return found[:, :, 0]

    def blank_text(self, batch: int, length: int) -> TextOutput:
        return TextOutput(torch.empty(batch, ROW.context, self.components[UNET].config["text_embed_dim"]), None)


def is_anima(path: Path) -> bool:
    """Whether a checkpoint is for `open_anima`, by the names of its tensors or the folders in it."""
    if path.is_dir():
        return (path / "transformer").is_dir() and (path / "text_conditioner").is_dir()
    if not path.is_file():
        return False
    try:
        return prefix_of(TensorFile.open(path).tensors) is not None
    except FileFormatError:
        return False  # whatever it is, who opens it says so


def open_anima(path: Path, config: BaseConfig) -> AnimaBase:
    """The base whose transformer is in this file, with the text encoder and VAE that are named or lie beside it.

    Raises ConfigError for settings that contradict it, FileFormatError for a missing or unfit part.
    """
    _check_settings(config, path)
    folder = path.is_dir()
    if folder:
        parts, shapes, tokens = open_folder(path)
        side = 0
    else:
        weights = open_part(path)
        family_of(weights.shapes)  # refuses a transformer of its class without Anima's conditioner
        parts, shapes, tokens = transformer_parts(weights), weights.shapes, own_tokens(weights.metadata, path)
        side = stated_side(weights)
    blocks = parts[UNET].config["num_layers"]
    findings = [f"{path.name} is {with_article(ROW.title)} model with {blocks} blocks."]
    if parts[UNET].config["num_attention_heads"] == ROW.transformer["num_attention_heads"] and blocks not in BLOCKS:
        known = " or ".join(map(str, BLOCKS))
        findings.append(f"Released models have {known} blocks: this file is cut short, or somebody's variant.")
    for kind, named in (("text_encoder", config.text_encoder), ("vae", config.vae)):
        if PART_OF[kind] in parts and not named:
            continue
        found, how = find(kind, path, named, partial(_fits, kind, parts))
        opened = open_part(found)
        parts[PART_OF[kind]] = READERS[kind](opened, found)
        _check_fit(kind, found, parts)
        findings.append(f"{TITLES[PART_OF[kind]].capitalize() if kind != 'vae' else 'VAE'}: {found}, {how}.")
        if kind == "text_encoder":
            shapes = {**shapes, **{key: shape for key, shape in opened.shapes.items() if "layers." in key}}
            tokens = tokens or own_tokens(opened.metadata, found)
    _check_vocabularies(path, parts, tokens or released_tokens())
    findings.append("Prediction type: rectified flow, as every Anima.")
    return AnimaBase(
        path=path,
        family=ROW.key,
        shapes=shapes,
        components=parts,
        prediction=FLOW,
        findings=findings,
        vae_path=Path(config.vae).expanduser() if config.vae else None,
        tokens=tokens,
        side=side or ROW.resolution,
        masked=config.empty_caption == "masked",
    )


PART_OF = {"text_encoder": "te1", "vae": "vae"}
READERS = {"text_encoder": text_part, "vae": vae_part}


def _check_settings(config: BaseConfig, path: Path) -> None:
    if config.prediction not in ("auto", FLOW):
        raise ConfigError(
            f"base.prediction is {config.prediction}, but {path} is an Anima, a rectified flow; use auto."
        )
    if config.zero_terminal_snr == "yes":
        raise ConfigError("Rectified flow has no noise schedule to rescale: set base.zero_terminal_snr to auto.")
    if config.clip_skip:
        raise ConfigError(
            f"base.clip_skip is {config.clip_skip}, but Anima's text encoder is always read at its end; set it to 0."
        )


def _fits(kind: str, parts: Mapping[str, Component], path: Path) -> bool:
    """Whether a file beside the checkpoint can be its text encoder or VAE, by its header."""
    if kind == "text_encoder":
        return has_tensor(path, TEXT_MARK, (None,)) and has_tensor(path, "embed_tokens.weight", (None, _wide(parts)))
    return any(has_tensor(path, mark, (None, 3, 3, 3, 3)) for mark in (VAE_MARK, DIFFUSERS_VAE_MARK))


def _check_fit(kind: str, path: Path, parts: Mapping[str, Component]) -> None:
    if kind == "text_encoder" and (width := parts["te1"].config["hidden_size"]) != _wide(parts):
        raise FileFormatError(
            f"{path} is a Qwen3 of another size (states of {width} numbers, where this Anima reads {_wide(parts)}); "
            "give base.text_encoder Qwen3 0.6B."
        )
    if kind == "vae" and (channels := parts["vae"].config["z_dim"]) != parts[UNET].config["in_channels"]:
        raise FileFormatError(
            f"{path} has latents of {channels} channels, where this Anima has {parts[UNET].config['in_channels']}; "
            "choose its own VAE in base.vae."
        )


def _wide(parts: Mapping[str, Component]) -> int:
    width: int = parts["conditioner"].config["source_dim"]
    return width


def _check_vocabularies(path: Path, parts: Mapping[str, Component], tokens: AnimaTokens) -> None:
    """Refuse a model that has no rows for tokens which its tokenizers give."""
    for what, tokenizer, rows in (
        ("text encoder", tokens.qwen3, parts["te1"].config["vocab_size"]),
        ("text conditioner", tokens.t5, parts["conditioner"].config["target_vocab_size"]),
    ):
        if tokenizer.get_vocab_size() > rows:
            raise FileFormatError(
                f"{path}: its {what} knows {rows} tokens, fewer than its tokenizer has ({tokenizer.get_vocab_size()}); "
                "it is no released Anima and brings no tokenizers of its own."
            )
