"""Text encoders of a base: captions to what the UNet reads, as web UIs compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adapter_lab.families import UNETS
from adapter_lab.training.bases.tokenizer import ClipTokenizer
from adapter_lab.training.device.transfer import to_device


@dataclass(frozen=True)
class TextOutput:
    """`hidden` (B, 77 * chunks, D) for cross-attention; `pooled` (B, P) of SDXL's second encoder, else None."""

    hidden: Tensor
    pooled: Tensor | None

    def cast(self, dtype: torch.dtype) -> TextOutput:
        """The same output in another format."""
        return TextOutput(self.hidden.to(dtype), None if self.pooled is None else self.pooled.to(dtype))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TextOutput:
        """The same output elsewhere."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return TextOutput(self.hidden.to(device=device, dtype=dtype), pooled)


class CaptionFormat(Protocol):
    """How long a family's captions are, and how their encodings become those of a batch; needs no text encoder.

    Lengths count in units of the family's own: CLIP's are chunks of 75 tokens.
    """

    def length(self, captions: Sequence[str], limit: int) -> int:
        """Units that the longest caption takes, at least 1 and at most `limit`."""
        ...

    def too_long(self, captions: Sequence[str], limit: int) -> list[str]:
        """The captions of which something is cut off at `limit` units."""
        ...

    def tokens(self, length: int) -> int:
        """Tokens of a caption that so many units have room for."""
        ...

    def kept(self, hidden: Tensor) -> Sequence[Tensor]:
        """What of the encodings (B, n, D) of single captions has to be kept for `joined`."""
        ...

    def findings(self, captions: Sequence[str]) -> list[str]:
        """Sentences on captions that are read otherwise than one expects, besides too long ones."""
        ...

    def joined(self, texts: Sequence[tuple[TextOutput, int]], empty: Callable[[], TextOutput]) -> TextOutput:
        """One batch (B, ...) of encodings of single captions (1, ...) and their lengths, filled up to the longest.

        `empty` gives the encoding of the empty caption at length 1.
        """
        ...


class TextStack(Protocol):
    """The text encoders of a base in memory: captions to what its denoiser reads."""

    parts: dict[str, nn.Module]
    captions: CaptionFormat

    def encode(self, captions: Sequence[str], length: int = 1) -> TextOutput:
        """Encode captions at one length (`CaptionFormat`); what does not fit is cut off. Differentiable."""
        ...


class ClipCaptions:
    """Captions in chunks of 75 tokens, as web UIs cut them; a missing chunk is that of the empty caption."""

    def __init__(self, tokenizer: ClipTokenizer) -> None:
        self.tokenizer = tokenizer

    def length(self, captions: Sequence[str], limit: int) -> int:
        return self.tokenizer.chunks_needed(captions, limit)

    def too_long(self, captions: Sequence[str], limit: int) -> list[str]:
        return self.tokenizer.too_long(captions, limit)

    def tokens(self, length: int) -> int:
        return length * (self.tokenizer.length - 2)

    def kept(self, hidden: Tensor) -> Sequence[Tensor]:
        return list(hidden)

    def findings(self, captions: Sequence[str]) -> list[str]:
        return []

    def joined(self, texts: Sequence[tuple[TextOutput, int]], empty: Callable[[], TextOutput]) -> TextOutput:
        most = max(length for _, length in texts)
        hidden = [
            text.hidden if length == most else torch.cat([text.hidden, *[empty().hidden] * (most - length)], dim=1)
            for text, length in texts
        ]
        pooled = [text.pooled for text, _ in texts if text.pooled is not None]
        return TextOutput(torch.cat(hidden), torch.cat(pooled) if pooled else None)


class TextEncoders:
    """CLIP's text encoders of one base; `parts` maps "te1" and "te2" to transformers modules.

    `clip_skip` counts as hosts do: 1 reads the last layer, 2 the one before.
    """

    def __init__(self, family: str, parts: Mapping[str, nn.Module], tokenizer: ClipTokenizer, clip_skip: int) -> None:
        self.family = UNETS[family]
        self.parts = dict(parts)
        self.captions: CaptionFormat = ClipCaptions(tokenizer)
        self.tokenizer = tokenizer
        self.clip_skip = clip_skip

    def encode(self, captions: Sequence[str], length: int = 1) -> TextOutput:
        """Encode captions in `length` chunks of 75 tokens; what does not fit is cut off. Differentiable.

        SD1.5 and SD2: final LayerNorm of the chosen layer. SDXL: the chosen layer of both encoders side by side without
        LayerNorm, and the projected end token of the first chunk from the second encoder.
        """
        hidden, pooled = [], None
        for part, module in self.parts.items():
            ids = self.tokenizer.chunked(captions, length, self.family.text_part(part).pad_token)
            states, projected = self._run(part, module, ids)
            hidden.append(states)
            pooled = projected if projected is not None else pooled
        return TextOutput(torch.cat(hidden, dim=-1) if len(hidden) > 1 else hidden[0], pooled)

    def _run(self, part: str, module: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        count, chunks, length = ids.shape
        device = next(module.parameters()).device
        output: Any = module(to_device(ids.view(count * chunks, length), device), output_hidden_states=True)
        # Modules come without last layers that are never used (SD2).
        layer = self.clip_skip - self.family.text_part(part).unused_layers
        states = output.hidden_states[-layer]
        if self.family.final_norm:
            inner: Any = getattr(
                module, "text_model", module
            )  # transformers 5 has no `text_model` inside CLIPTextModel
            states = inner.final_layer_norm(states)
        pooled = output.text_embeds.view(count, chunks, -1)[:, 0] if self.family.text_part(part).pooled else None
        return states.reshape(count, chunks * length, -1), pooled

    def to(self, device: torch.device | str) -> TextEncoders:
        """Move the modules."""
        for module in self.parts.values():
            module.to(device)
        return self
