"""CLIP's tokenizer, from the vocabulary shipped here or one that a checkpoint brings along."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from adapter_lab import jsonio
from adapter_lab.errors import FileFormatError

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
VOCABULARY = Path(__file__).parent / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the file's lines CLIP uses these, after a heading
CHUNK = 77  # tokens with start and end
# CLIP's split into words: contractions, runs of letters, single digits, runs of anything else but space.
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class ClipTokenizer:
    """Text to token ids by byte-level BPE (Radford et al. 2021), cut into chunks with a start and an end token each.

    Built on the `tokenizers` library directly, so that ids do not depend on the release of transformers.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], length: int = CHUNK) -> None:
        self.vocabulary = dict(vocabulary)
        self.start, self.end, self.length = self.vocabulary[START], self.vocabulary[END], length
        self._tokenizer = Tokenizer(BPE(self.vocabulary, list(merges), end_of_word_suffix=END_OF_WORD, unk_token=END))
        self._tokenizer.add_special_tokens([START, END])  # hosts too take them for themselves within a text
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without start and end."""
        return list(self._tokenizer.encode(text).ids)

    def chunks_needed(self, texts: Sequence[str], limit: int = 3) -> int:
        """Chunks of 75 tokens the longest text fills, at least 1 and at most `limit`."""
        room = self.length - 2
        return max([1, *(min(limit, -(-len(self.ids(text)) // room)) for text in texts)])

    def too_long(self, texts: Sequence[str], chunks: int) -> list[str]:
        """The texts of which something is cut off at `chunks` chunks."""
        return [text for text in texts if len(self.ids(text)) > chunks * (self.length - 2)]

    def chunked(self, texts: Sequence[str], chunks: int, pad: str = END) -> Tensor:
        """Ids (B, chunks, 77): each chunk has a start token, up to 75 of the text's, an end token, and padding."""
        room, filler = self.length - 2, self.vocabulary[pad]
        rows = []
        for text in texts:
            ids = self.ids(text)
            for first in range(0, chunks * room, room):
                part = ids[first : first + room]
                rows.append([self.start, *part, self.end, *[filler] * (room - len(part))])
        return torch.tensor(rows, dtype=torch.long).view(len(texts), chunks, self.length)


def byte_characters() -> list[str]:
    """The printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary (GPT-2's byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


@cache
def clip_tokenizer() -> ClipTokenizer:
    """The tokenizer of CLIP and OpenCLIP: 49,408 tokens."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    characters = byte_characters()
    tokens = [*characters, *(character + END_OF_WORD for character in characters)]
    tokens += ["".join(pair) for pair in merges] + [START, END]
    return ClipTokenizer({token: index for index, token in enumerate(tokens)}, merges)


def tokenizer_from_metadata(text: str, path: Path) -> ClipTokenizer:
    """The tokenizer in a checkpoint's `adapter_lab.tokenizer` metadata: {"vocab", "merges", "model_max_length"}."""
    try:
        data = jsonio.table(jsonio.parsed(text))
        return ClipTokenizer(data["vocab"], _pairs(data["merges"]), int(data.get("model_max_length", CHUNK)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{path} has malformed adapter_lab.tokenizer metadata ({error}); write the checkpoint again."
        ) from error


def tokenizer_from_folder(folder: Path) -> ClipTokenizer | None:
    """The tokenizer in a diffusers folder's `tokenizer` subfolder, None if it has none."""
    vocabulary, merges, single = folder / "vocab.json", folder / "merges.txt", folder / "tokenizer.json"
    try:
        if vocabulary.is_file() and merges.is_file():
            lines = merges.read_text(encoding="utf-8").split("\n")
            pairs = _pairs([line for line in lines if line.strip() and not line.startswith("#version")])
            return ClipTokenizer(jsonio.table(jsonio.read(vocabulary)), pairs)
        if single.is_file():
            data = jsonio.table(jsonio.read(single))
            added = {entry["content"]: entry["id"] for entry in data.get("added_tokens", [])}
            return ClipTokenizer({**data["model"]["vocab"], **added}, _pairs(data["model"]["merges"]))
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder} holds no CLIP tokenizer ({error}); download the folder again.") from error
    return None


def _pairs(merges: Sequence[Any]) -> list[tuple[str, str]]:
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(first, second) for first, second in pairs]
