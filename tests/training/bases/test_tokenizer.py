"""CLIP token ids: known values, agreement with transformers, chunks of 75 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizerFast

from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases.tokenizer import (
    END,
    END_OF_WORD,
    START,
    ClipTokenizer,
    clip_tokenizer,
    tokenizer_from_folder,
    tokenizer_from_metadata,
)
from tests.support.checkpoints import byte_vocabulary


@pytest.mark.parametrize(
    "text, ids",
    # From CLIP's own README and examples.
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A  Photo of\na CAT ", [320, 1125, 539, 320, 2368]),
        ("a diagram", [320, 22697]),
        ("a dog", [320, 1929]),
        ("hello world!", [3306, 1002, 256]),
        ("", []),
    ],
)
def test_known_token_ids(text: str, ids: list[int]) -> None:
    assert clip_tokenizer().ids(text) == ids


def test_special_tokens_and_vocabulary_size() -> None:
    tokenizer = clip_tokenizer()
    assert (tokenizer.start, tokenizer.end) == (49406, 49407)
    assert len(tokenizer.vocabulary) == 49408
    assert tokenizer.vocabulary["!"] == 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizerFast:
    """transformers' tokenizer, given the vocabulary through files of the old format."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.vocabulary), encoding="utf-8")
    ranked = [token for token in tokenizer.vocabulary if token not in (START, END)][512:]
    assert len(ranked) == 48894
    import gzip

    from adapter_lab.training.bases.tokenizer import VOCABULARY

    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")[1 : 1 + len(ranked)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    return CLIPTokenizerFast.from_pretrained(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "1girl, solo, long hair, looking at viewer, blush, smile, (masterpiece:1.2), best quality",
        "it's they're I'd we'll don't 'quoted'",
        "naïve café ÅNGSTRÖM ﬁne",
        "東京の猫, 고양이, кошка",
        "emoji 🐈‍⬛ 12345 3.14 a_b_c <lora:x:1> \\(escaped\\)",
        "tabs\tand\r\nnew lines   many spaces ",
        "<|startoftext|> in the middle <|endoftext|>",
        "zzxqj supercalifragilisticexpialidocious",
    ],
)
def test_ids_equal_transformers(reference: CLIPTokenizerFast, text: str) -> None:
    assert clip_tokenizer().ids(text) == reference(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("pad, filler", [(END, 49407), ("!", 0)])
def test_one_chunk_has_start_end_and_padding(pad: str, filler: int) -> None:
    ids = clip_tokenizer().chunked(["a photo of a cat", ""], 1, pad)
    assert ids.shape == (2, 1, 77)
    assert ids[0, 0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] + [filler] * 70
    assert ids[1, 0].tolist() == [49406, 49407] + [filler] * 75


def test_long_text_continues_in_the_next_chunk_and_is_cut_at_the_last() -> None:
    tokenizer = clip_tokenizer()
    text = "cat dog " * 50  # 100 tokens
    flat = tokenizer.ids(text)
    two = tokenizer.chunked([text], 2)[0]
    assert two[0].tolist() == [49406, *flat[:75], 49407]
    assert two[1].tolist() == [49406, *flat[75:], 49407] + [49407] * 50
    assert tokenizer.chunked([text], 1)[0, 0].tolist() == two[0].tolist()
    three = tokenizer.chunked([text], 3)[0]
    assert three[2].tolist() == [49406, 49407] + [49407] * 75


@pytest.mark.parametrize("tokens, chunks", [(0, 1), (75, 1), (76, 2), (150, 2), (151, 3), (400, 3)])
def test_chunks_needed_by_the_longest_caption(tokens: int, chunks: int) -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer.chunks_needed(["cat", "dog " * tokens], 3) == chunks
    assert bool(tokenizer.too_long(["cat", "dog " * tokens], 3)) == (tokens > 225)


def _with_merges() -> dict:
    vocabulary = byte_vocabulary()
    merges = [("c", "a"), ("ca", "t" + END_OF_WORD)]
    tokens = [*list(vocabulary)[:-2], *("".join(pair) for pair in merges), START, END]
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": [" ".join(pair) for pair in merges]}


def test_tokenizer_of_a_checkpoint_applies_its_merges() -> None:
    data = _with_merges()
    tokenizer = tokenizer_from_metadata(json.dumps({**data, "model_max_length": 77}), Path("toy.safetensors"))
    vocabulary = data["vocab"]
    assert tokenizer.ids("cat") == [vocabulary["cat</w>"]]
    assert tokenizer.ids("cab") == [vocabulary["ca"], vocabulary["b</w>"]]
    assert tokenizer.ids("Dc") == [vocabulary["d"], vocabulary["c</w>"]]


@pytest.mark.parametrize("form", ["vocab.json", "tokenizer.json strings", "tokenizer.json pairs", "none"])
def test_tokenizer_of_a_diffusers_folder(tmp_path: Path, form: str) -> None:
    data = _with_merges()
    if form == "vocab.json":
        (tmp_path / "vocab.json").write_text(json.dumps(data["vocab"]))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(data["merges"]) + "\n")
    elif form != "none":
        merges = data["merges"] if form.endswith("strings") else [merge.split() for merge in data["merges"]]
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": data["vocab"], "merges": merges}}))
    tokenizer = tokenizer_from_folder(tmp_path)
    if form == "none":
        assert tokenizer is None
    else:
        assert isinstance(tokenizer, ClipTokenizer)
        assert tokenizer.ids("cat") == [data["vocab"]["cat</w>"]]


@pytest.mark.parametrize("text", ["{", "{}", '{"vocab": {"a": 0}, "merges": []}', '{"vocab": 3, "merges": []}', "[]"])
def test_malformed_tokenizer_metadata_is_said(text: str) -> None:
    with pytest.raises(FileFormatError, match=r"toy\.safetensors has malformed adapter_lab\.tokenizer"):
        tokenizer_from_metadata(text, Path("toy.safetensors"))
