"""The toy world's CLIP tokenizer: one token per tag; unknown words, such as triggers, are spelled out."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from .world import all_tags

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order (GPT-2's byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one token (Sennrich et al., 2016).

    Encoding applies merges in the order they were learned, so it repeats exactly what happened to each word here.
    """
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in pieces):
        counts = Counter(pair for word in pieces for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in pieces:
            index = 0
            while index < len(word) - 1:
                if (word[index], word[index + 1]) == best:
                    word[index : index + 2] = ["".join(best)]
                index += 1
    return merges


def build_tokenizer() -> dict[str, Any]:
    """The tokenizer as plain data: `vocab` (token -> id, the end token highest), `merges` ("a b" lines), length."""
    characters = byte_characters()
    merges = learn_merges(all_tags())
    tokens = [*characters, *(character + END_OF_WORD for character in characters), *("".join(pair) for pair in merges)]
    tokens = list(dict.fromkeys([*tokens, START, END]))
    return {
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": [" ".join(pair) for pair in merges],
        "model_max_length": 77,
    }


def write_tokenizer(data: dict[str, Any], folder: Path, pad_token: str) -> None:
    """Writes the files transformers' CLIPTokenizer loads from a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(data["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *data["merges"], ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": data["model_max_length"],
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad_token,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
