"""The toy tokenizer, as transformers reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from adapter_lab.demo.vocabulary import END, START, build_tokenizer, learn_merges, write_tokenizer
from adapter_lab.demo.world import CHARACTERS, all_tags


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(build_tokenizer(), folder, END)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tag", all_tags())
def test_every_tag_is_one_token(tokenizer: CLIPTokenizer, tag: str) -> None:
    assert tokenizer.tokenize(tag) == [f"{tag}</w>"]


@pytest.mark.parametrize("word", [*(c.trigger for c in CHARACTERS), "qqq", "zwölf", "x1"])
def test_unknown_words_are_spelled_out_without_an_unknown_token(tokenizer: CLIPTokenizer, word: str) -> None:
    ids = tokenizer(word)["input_ids"]
    vocab = build_tokenizer()["vocab"]
    assert ids[0] == vocab[START]
    assert ids[-1] == vocab[END]
    assert len(ids) > 3
    assert vocab[END] not in ids[1:-1]


def test_commas_separate_tags(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.tokenize("solo, RedHair, night") == ["solo</w>", ",</w>", "redhair</w>", ",</w>", "night</w>"]


def test_the_end_token_has_the_highest_id_and_zero_is_the_second_encoders_padding() -> None:
    vocab = build_tokenizer()["vocab"]
    assert vocab[END] == len(vocab) - 1
    assert vocab["!"] == 0
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_the_second_encoders_tokenizer_pads_with_zero(tmp_path: Path) -> None:
    write_tokenizer(build_tokenizer(), tmp_path, "!")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("solo", padding="max_length", max_length=77)["input_ids"]
    assert ids[3:] == [0] * 74


def test_merging_ends_with_one_token_per_word_even_where_words_overlap() -> None:
    words = ["ab", "abc", "bca", "aab", "cab"]
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    for pair in learn_merges(words):
        for piece in pieces.values():
            index = 0
            while index < len(piece) - 1:
                if (piece[index], piece[index + 1]) == pair:
                    piece[index : index + 2] = ["".join(pair)]
                index += 1
    assert all(piece == [f"{word}</w>"] for word, piece in pieces.items())
