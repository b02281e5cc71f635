"""Captions to what Anima's transformer reads: Qwen3's states, put under T5's tokens by the text conditioner."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from adapter_lab import jsonio
from adapter_lab.errors import FileFormatError
from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases.text import CaptionFormat, TextOutput
from adapter_lab.training.device.transfer import to_device

VOCABULARIES = Path(__file__).parent / "vocabularies"
CONTEXT = TRANSFORMERS["anima"].context
PAD, END = "<|endoftext|>", "</s>"
UNKNOWN = "<unk>"
# In the metadata of a checkpoint that brings tokenizers of its own: JSON of {"qwen3": ..., "t5": ...}, as `tokenizers`.
OWN = "adapter_lab.tokenizers"


class AnimaTokens:
    """The two tokenizers: ids of Qwen3 for the text encoder, of T5 for the conditioner."""

    def __init__(self, qwen3: Tokenizer, t5: Tokenizer) -> None:
        self.qwen3, self.t5 = qwen3, t5
        self.pad, self.end = (_id(tokenizer, token) for tokenizer, token in ((qwen3, PAD), (t5, END)))
        self.unknown = t5.token_to_id(UNKNOWN)

    def text_ids(self, caption: str) -> list[int]:
        """Ids of the text encoder: none is added, but one pad token stands for an empty caption."""
        return list(self.qwen3.encode(caption, add_special_tokens=False).ids) or [self.pad]

    def target_ids(self, caption: str) -> list[int]:
        """Ids of the conditioner, with the end token."""
        return [*self.t5.encode(caption, add_special_tokens=False).ids, self.end]

    def lost(self, caption: str) -> bool:
        """Whether T5's vocabulary lacks characters of a caption (kana, emoji), which only the text encoder sees."""
        return self.unknown in self.target_ids(caption)

    def key(self) -> str:
        """What tells two pairs of tokenizers apart."""
        return self.qwen3.to_str() + self.t5.to_str()


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise FileFormatError(f"A tokenizer of this Anima lacks the token {token}; use the released ones.")
    return int(found)


@cache
def released_tokens() -> AnimaTokens:
    """The tokenizers of every released Anima."""
    return AnimaTokens(*(_shipped(name) for name in ("qwen3", "t5")))


def _shipped(name: str) -> Tokenizer:
    path = VOCABULARIES / f"{name}.json.gz"
    try:
        return Tokenizer.from_str(gzip.decompress(path.read_bytes()).decode())
    except OSError as error:
        raise FileFormatError(f"{path} is missing or damaged ({error}); install the extension again.") from error


def own_tokens(metadata: Mapping[str, str], path: Path) -> AnimaTokens | None:
    """The tokenizers that a file brings along in its metadata; None: it has those of every released one."""
    if OWN not in metadata:
        return None
    try:
        given = jsonio.table(jsonio.parsed(metadata[OWN]))
        return AnimaTokens(*(Tokenizer.from_str(json.dumps(given[name])) for name in ("qwen3", "t5")))
    except Exception as error:
        raise FileFormatError(f"{path} has malformed {OWN} metadata ({error}); write the file again.") from error


def tokens_of_folder(folder: Path) -> AnimaTokens | None:
    """The tokenizers of a diffusers folder; None: it has none of its own."""
    files = [folder / name / "tokenizer.json" for name in ("tokenizer", "t5_tokenizer")]
    if not all(file.is_file() for file in files):
        return None
    try:
        return AnimaTokens(*(Tokenizer.from_file(str(file)) for file in files))
    except Exception as error:
        raise FileFormatError(f"{folder} has a damaged tokenizer ({error}); download the folder again.") from error


class AnimaCaptions:
    """Captions as they are, without chunks: one unit is a whole caption, whatever its length."""

    def __init__(self, tokens: AnimaTokens) -> None:
        self.tokenizers = tokens

    def length(self, captions: Sequence[str], limit: int) -> int:
        return 1

    def too_long(self, captions: Sequence[str], limit: int) -> list[str]:
        return []

    def tokens(self, length: int) -> int:
        return CONTEXT

    def kept(self, hidden: Tensor) -> Sequence[Tensor]:
        # Without the rows of zeros at the end, of which most of a short caption's context consists.
        lengths = [1 + int(rows.abs().amax(-1).nonzero().max()) for rows in hidden]
        return [rows[:length] for rows, length in zip(hidden, lengths)]

    def joined(self, texts: Sequence[tuple[TextOutput, int]], empty: Callable[[], TextOutput]) -> TextOutput:
        rows = max(CONTEXT, *(text.hidden.shape[1] for text, _ in texts))
        return TextOutput(torch.cat([filled(text.hidden, rows) for text, _ in texts]), None)

    def findings(self, captions: Sequence[str]) -> list[str]:
        """What is to be said of captions before training."""
        found = []
        longer = [caption for caption in captions if len(self.tokenizers.target_ids(caption)) > CONTEXT]
        if longer:
            found.append(
                f"{len(longer)} of {len(captions)} captions have more than {CONTEXT} tokens. They are used whole, as "
                f"Forge Neo does; other programs cut them there. The first begins: {longer[0][:80]}"
            )
        lost = [caption for caption in captions if self.tokenizers.lost(caption)]
        if lost:
            found.append(
                f"{len(lost)} of {len(captions)} captions have characters that T5's vocabulary lacks, such as kana and "
                f"emoji: only the text encoder reads them. The first begins: {lost[0][:80]}"
            )
        return found


def filled(hidden: Tensor, rows: int = CONTEXT) -> Tensor:
    """Context (B, n, D) with rows of zeros up to `rows`, which the transformer reads as well."""
    return F.pad(hidden, (0, 0, 0, max(0, rows - hidden.shape[1])))


class AnimaText:
    """Text encoder "te1" and "conditioner" in memory. `masked`: an empty caption shows nothing, not a pad token."""

    def __init__(self, parts: Mapping[str, nn.Module], tokens: AnimaTokens, masked: bool) -> None:
        self.parts = dict(parts)
        self.tokens = tokens
        self.captions: CaptionFormat = AnimaCaptions(tokens)
        self.masked = masked

    def encode(self, captions: Sequence[str], length: int = 1) -> TextOutput:
        """Context (B, n, D) of captions, n at least 512 and as many as the longest has tokens. Differentiable.

        Rows behind a caption's last token are zeros.
        """
        encoder: Any = self.parts["te1"]
        conditioner: Any = self.parts["conditioner"]
        device = next(encoder.parameters()).device
        ids, mask = _batch([self.tokens.text_ids(caption) for caption in captions], self.tokens.pad, device)
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        # Attention to states of zeros alone adds nothing, as attention to nothing does.
        shown = torch.tensor([not (self.masked and not caption) for caption in captions])
        states = states * to_device(shown, device).view(-1, 1, 1).to(states.dtype)
        if mask is not None:
            states = states * mask.unsqueeze(-1).to(states.dtype)
        targets, read = _batch([self.tokens.target_ids(caption) for caption in captions], 0, device)
        context = conditioner(
            source_hidden_states=states,
            target_input_ids=targets,
            target_attention_mask=read,
            source_attention_mask=mask,
        )
        return TextOutput(filled(context), None)

    def to(self, device: torch.device | str) -> AnimaText:
        """Move the modules."""
        for module in self.parts.values():
            module.to(device)
        return self


def _batch(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Ids (B, n), filled up on the right, and their mask (B, n) of 1 and 0; None where nothing had to be filled up."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.long)
    return to_device(ids, device), to_device(mask, device) if min(map(len, rows)) < longest else None
