"""What the UNet is told about a batch's captions: from the cache, from frozen text encoders, or from trained ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from adapter_lab.errors import DatasetError
from adapter_lab.training.bases.text import TextEncoders, TextOutput
from adapter_lab.training.bases.tokenizer import ClipTokenizer
from adapter_lab.training.dataset import FillReport, TextCache
from adapter_lab.training.device.transfer import to_device

Progress = Callable[[int, int], None]


class Conditioning(Protocol):
    """Captions of a batch to the UNet's cross-attention input (B, 77 * chunks, D) and pooled text (B, P) or None."""

    def __call__(self, captions: Sequence[str]) -> TextOutput: ...


class EncodedNow:
    """Captions encoded when they are needed, in as many chunks as the longest of the batch takes."""

    def __init__(
        self,
        encoders: TextEncoders,
        limit: int,
        trained: bool,
    ) -> None:
        self.encoders = encoders
        self.limit = limit
        self.trained = trained

    def __call__(self, captions: Sequence[str]) -> TextOutput:
        chunks = self.encoders.tokenizer.chunks_needed(captions, self.limit)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.encoders.encode(captions, chunks)


class CachedCaptions:
    """Encodings of all captions made beforehand, so that the encoders need not be in memory while training.

    A caption is kept in the chunks it needs. In a batch with a longer one it is filled up with the encoding of "",
    which is what the encoders give for the missing chunks.
    """

    def __init__(
        self,
        folder: Path | None,
        tokenizer: ClipTokenizer,
        text_key: str,
        clip_skip: int,
        limit: int,
        dtype: torch.dtype,
    ) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._caches = {
            chunks: TextCache(folder, text_key, dtype, chunks=chunks, clip_skip=clip_skip)
            for chunks in range(1, limit + 1)
        }
        self.device = torch.device("cpu")

    def fill(
        self, captions: Sequence[str], encode: Callable[[list[str], int], TextOutput], progress: Progress | None = None
    ) -> FillReport:
        """Encode the captions that are not kept yet; `encode(captions, chunks)` runs the text encoders."""
        total = FillReport()
        for chunks, group in self._by_chunks(["", *captions]).items():
            report = self._caches[chunks].fill(group, lambda some, n=chunks: encode(some, n), progress=progress)  # type: ignore[misc]
            total.made += report.made
            total.found += report.found
            total.seconds += report.seconds
            total.remarks += [remark for remark in report.remarks if remark not in total.remarks]
        return total

    def complete(self, captions: Sequence[str]) -> bool:
        """Whether every caption is kept already, so that the text encoders need not be loaded at all."""
        groups = self._by_chunks(["", *captions])
        return not any(self._caches[chunks].missing(group) for chunks, group in groups.items())

    def _by_chunks(self, captions: Sequence[str]) -> dict[int, list[str]]:
        groups: dict[int, list[str]] = {}
        for caption in dict.fromkeys(captions):
            groups.setdefault(self._tokenizer.chunks_needed([caption], self._limit), []).append(caption)
        return groups

    def __call__(self, captions: Sequence[str]) -> TextOutput:
        needed = [self._tokenizer.chunks_needed([caption], self._limit) for caption in captions]
        most = max(needed)
        hidden, pooled = [], []
        for caption, chunks in zip(captions, needed):
            states, summary = self._get(caption, chunks)
            if chunks < most:
                states = torch.cat([states, *[self._get("", 1)[0]] * (most - chunks)])
            hidden.append(states)
            pooled.append(summary)
        together = torch.stack([p for p in pooled if p is not None]) if pooled[0] is not None else None
        states = to_device(torch.stack(hidden), self.device, torch.float32)
        return TextOutput(states, None if together is None else to_device(together, self.device, torch.float32))

    def _get(self, caption: str, chunks: int) -> tuple[Tensor, Tensor | None]:
        entry = self._caches[chunks].get(caption)
        if entry is None:
            raise DatasetError(
                f"The cached encoding of the caption {caption[:80]!r} is gone or broken; resume the run, which makes "
                "it again, and let nothing else clear the cache folder meanwhile."
            )
        return entry.hidden, entry.pooled


def cut_off(captions: Sequence[str], tokenizer: ClipTokenizer, limit: int) -> str:
    """A sentence on the captions that do not fit into `limit` chunks of 75 tokens; "" where all fit."""
    longer = tokenizer.too_long(list(captions), limit)
    if not longer:
        return ""
    remedy = "shorten them" if limit == 3 else "shorten them or raise dataset.token_chunks"
    return (
        f"{len(longer)} of {len(captions)} captions are longer than {75 * limit} tokens and are cut off there; "
        f"{remedy}. The first begins: {longer[0][:80]}"
    )
