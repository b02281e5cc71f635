"""What the UNet is told about a batch's captions: from the cache, from frozen text encoders, or from trained ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from adapter_lab.errors import DatasetError
from adapter_lab.training.bases.text import CaptionFormat, TextOutput, TextStack
from adapter_lab.training.dataset import FillReport, KeptText, TextCache
from adapter_lab.training.device.transfer import to_device

Progress = Callable[[int, int], None]
Encode = Callable[[list[str], int], TextOutput]


class Conditioning(Protocol):
    """Captions of a batch to what the denoiser reads of them."""

    def __call__(self, captions: Sequence[str]) -> TextOutput: ...


class EncodedNow:
    """Captions encoded when they are needed, at the length that the longest of the batch takes."""

    def __init__(
        self,
        encoders: TextStack,
        limit: int,
        trained: bool,
    ) -> None:
        self.encoders = encoders
        self.limit = limit
        self.trained = trained

    def __call__(self, captions: Sequence[str]) -> TextOutput:
        length = self.encoders.captions.length(captions, self.limit)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.encoders.encode(captions, length)


class CachedCaptions:
    """Encodings of all captions made beforehand, so that the encoders need not be in memory while training.

    A caption is kept at the length it needs, and filled up in a batch with a longer one (`CaptionFormat.joined`).
    """

    def __init__(
        self,
        folder: Path | None,
        captions: CaptionFormat,
        text_key: str,
        clip_skip: int,
        limit: int,
        dtype: torch.dtype,
    ) -> None:
        self._captions = captions
        self._limit = limit
        self._caches = {
            length: TextCache(folder, text_key, dtype, chunks=length, clip_skip=clip_skip)
            for length in range(1, limit + 1)
        }
        self.device = torch.device("cpu")

    def fill(self, captions: Sequence[str], encode: Encode, progress: Progress | None = None) -> FillReport:
        """Encode the captions that are not kept yet; `encode(captions, length)` runs the text encoders."""
        total = FillReport()
        for length, group in self._by_length(["", *captions]).items():
            report = self._caches[length].fill(group, partial(self._kept, encode, length), progress=progress)
            total.made += report.made
            total.found += report.found
            total.seconds += report.seconds
            total.remarks += [remark for remark in report.remarks if remark not in total.remarks]
        return total

    def _kept(self, encode: Encode, length: int, captions: list[str]) -> KeptText:
        text = encode(captions, length)
        return KeptText(self._captions.kept(text.hidden), text.pooled)

    def complete(self, captions: Sequence[str]) -> bool:
        """Whether every caption is kept already, so that the text encoders need not be loaded at all."""
        groups = self._by_length(["", *captions])
        return not any(self._caches[length].missing(group) for length, group in groups.items())

    def _by_length(self, captions: Sequence[str]) -> dict[int, list[str]]:
        groups: dict[int, list[str]] = {}
        for caption in dict.fromkeys(captions):
            groups.setdefault(self._captions.length([caption], self._limit), []).append(caption)
        return groups

    def __call__(self, captions: Sequence[str]) -> TextOutput:
        lengths = [self._captions.length([caption], self._limit) for caption in captions]
        texts = [(self._get(caption, length), length) for caption, length in zip(captions, lengths)]
        found = self._captions.joined(texts, lambda: self._get("", 1))
        pooled = None if found.pooled is None else to_device(found.pooled, self.device, torch.float32)
        return TextOutput(to_device(found.hidden, self.device, torch.float32), pooled)

    def _get(self, caption: str, length: int) -> TextOutput:
        entry = self._caches[length].get(caption)
        if entry is None:
            raise DatasetError(
                f"The cached encoding of the caption {caption[:80]!r} is gone or broken; resume the run, which makes "
                "it again, and let nothing else clear the cache folder meanwhile."
            )
        return TextOutput(entry.hidden[None], None if entry.pooled is None else entry.pooled[None])


def cut_off(captions: Sequence[str], form: CaptionFormat, limit: int) -> str:
    """A sentence on the captions that do not fit into `limit` units; "" where all fit."""
    longer = form.too_long(list(captions), limit)
    if not longer:
        return ""
    remedy = "shorten them" if limit == 3 else "shorten them or raise dataset.token_chunks"
    return (
        f"{len(longer)} of {len(captions)} captions are longer than {form.tokens(limit)} tokens and are cut off there; "
        f"{remedy}. The first begins: {longer[0][:80]}"
    )
