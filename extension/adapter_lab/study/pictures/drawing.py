"""Images of adapter files on one base that is loaded once: the same prompts and seeds for every file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from adapter_lab.adapters.base import patch, patch_bias
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.matching import Match
from adapter_lab.adapters.matching import match as match_file
from adapter_lab.config import PreviewConfig, TrainConfig
from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases import open_base
from adapter_lab.training.device.devices import FORMATS, choose_device, choose_format, make_current
from adapter_lab.training.network.files import add_frozen_adapters
from adapter_lab.training.network.modules import find_module
from adapter_lab.training.output.preview import PromptText, decode, encode_prompts, evaluating, sample_latents

# Small images are drawn several at a time; large ones fill a GPU one by one.
SMALL, BATCH = 256, 16


class Drawer:
    """Draws images with adapter files; `config` says base, device, number format, sampler and size."""

    def __init__(self, config: TrainConfig) -> None:
        self.base = open_base(config.base)
        self.preview: PreviewConfig = config.preview
        self.targets = targets(self.base.shapes)
        self.device = choose_device(config.precision)
        make_current(self.device)
        self.dtype = FORMATS[choose_format(config.precision, self.device)]
        # Prompts are few, and a GPU that is full with the UNet has no room for text encoders.
        self.encoders = self.base.load_text_encoders(torch.float32)
        self.unet = self.base.load_unet(self.dtype, self.device)
        self.vae = self.base.load_vae(self.dtype, self.device)
        self.parts: dict[str, nn.Module] = {"unet": self.unet, **self.encoders.parts}
        add_frozen_adapters(config.network.frozen_adapters, self.targets, self.parts)
        side = config.dataset.resolution or self.base.resolution
        self.size = self._whole_latents(config.preview.height or side, config.preview.width or side)

    def draw(
        self, prompts: Sequence[tuple[str, int]], adapters: Sequence[tuple[Path, float]] = ()
    ) -> Iterator[Image.Image]:
        """An image for each (prompt, seed of its noise), with adapter files at their strengths.

        A prompt's flags count but for its seed and size, which are those of all images here. Raises FileFormatError
        for a file that is broken or does not fit the base wholly.
        """
        with self._applied(adapters), evaluating(self.unet), torch.no_grad():
            preview = replace(self.preview, prompts=[text for text, _ in prompts])
            texts = encode_prompts(self.encoders, preview)
            for batch in _batches(list(zip(texts, (seed for _, seed in prompts), strict=True)), max(self.size)):
                latents = sample_latents(
                    self.base,
                    self.unet,
                    replace(self.preview, **_own(batch[0][0])),
                    [text for text, _ in batch],
                    [seed for _, seed in batch],
                    self.size,
                    self.device,
                    self.dtype,
                )
                yield from (decode(self.vae, latent) for latent in latents.split(1))

    @contextmanager
    def _applied(self, adapters: Iterable[tuple[Path, float]]) -> Iterator[None]:
        """Adapter files in the weights meanwhile; afterwards every weight is as it was, bit for bit."""
        before: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}
        with torch.no_grad():
            try:
                for path, strength in adapters:
                    file = AdapterFile.open(path)
                    for match in self._matches(file):
                        module = find_module(self.parts[match.target.part], match.target)
                        before.setdefault(module, _kept(module))
                        _patch(match, file, module, strength)
                yield
            finally:
                for module, kept in before.items():
                    _put_back(module, *kept)

    def _matches(self, file: AdapterFile) -> list[Match]:
        """What a file changes; images of a part of it would say nothing about it, so all of it must fit."""
        found = match_file(file, self.targets, self.base.family, str(self.base.path))
        problems = [*found.not_applied.items(), *((key, "it is of no known algorithm") for key in found.unknown)]
        if problems:
            raise FileFormatError(f"{file.path} does not fit {self.base.path}: {problems[0][0]}, for {problems[0][1]}.")
        return found.matches

    def _whole_latents(self, height: int, width: int) -> tuple[int, int]:
        step = self.base.latents.step
        return max(step, height // step * step), max(step, width // step * step)


def _patch(match: Match, file: AdapterFile, module: Any, strength: float) -> None:
    adapter = file.load(match.name)
    bias = getattr(module, "bias", None)
    module.weight.copy_(patch(module.weight, adapter, strength))
    changed = patch_bias(bias, adapter, strength)
    if bias is not None and changed is not None:
        bias.copy_(changed)
    elif changed is not None:
        module.bias = nn.Parameter(changed.to(module.weight), requires_grad=False)


def _kept(module: Any) -> tuple[Tensor, Tensor | None]:
    """Copies of a module's weight and bias, on the CPU, since a GPU may have no room for them."""
    bias = getattr(module, "bias", None)
    return module.weight.detach().to("cpu", copy=True), None if bias is None else bias.detach().to("cpu", copy=True)


def _put_back(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    module.weight.copy_(weight)
    if bias is None:
        module.bias = None
    else:
        module.bias.copy_(bias)


def _own(text: PromptText) -> dict[str, Any]:
    """What a prompt sets for itself of how it is sampled."""
    return {name: value for name, value in text.own.items() if name in ("steps", "guidance")}


def _batches(entries: list[tuple[PromptText, int]], side: int) -> Iterator[list[tuple[PromptText, int]]]:
    """Neighbours whose prompts have equally many tokens, as many as are drawn at a time."""
    size = BATCH if side <= SMALL else 1
    for _, group in groupby(entries, key=lambda entry: (entry[0].positive.hidden.shape[1], _own(entry[0]))):
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))
