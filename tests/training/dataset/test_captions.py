from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_lab.errors import FileFormatError
from adapter_lab.training.dataset.captions import CaptionRules, expand_wildcards, first, read_caption, unbalanced_braces
from adapter_lab.training.dataset.randomness import Draws

TEXT = "café, naïve girl"
LINES = "one, two\nthree"


@pytest.mark.parametrize(
    ("content", "lines", "remark"),
    [
        (TEXT.encode("utf-8"), (TEXT,), ""),
        (TEXT.encode("utf-8-sig"), (TEXT,), ""),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), (TEXT,), ""),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), (TEXT,), ""),
        (b"\xff\xfe\x00\x00" + TEXT.encode("utf-32-le"), (TEXT,), ""),
        (TEXT.encode("utf-16-le"), (TEXT,), "UTF-16"),
        (TEXT.encode("utf-16-be"), (TEXT,), "UTF-16"),
        (TEXT.encode("latin-1"), (TEXT,), "Latin-1"),
        (b"a \x93quote\x94", ("a “quote”",), "Latin-1"),
        ("日本, 猫".encode(), ("日本, 猫",), ""),
        (b"\xff\xfe" + "日本, 猫".encode("utf-16-le"), ("日本, 猫",), ""),
        (b"one, two\r\nthree\r\n", ("one, two", "three"), ""),
        (b"one, two\rthree", ("one, two", "three"), ""),
        (b"\n\n  one, two  \n", ("one, two",), ""),
        (b"", (), ""),
        (b"\xef\xbb\xbf", (), ""),
        (b" \r\n\t\n", (), ""),
    ],
)
def test_caption_files_are_read_in_any_usual_encoding(
    tmp_path: Path, content: bytes, lines: tuple[str, ...], remark: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    caption = read_caption(path)
    assert caption.lines == lines
    assert remark in caption.remark and bool(remark) == bool(caption.remark)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a text file"),
        (b"a\x00b", "not a text file"),
        (b"\xff\xfea", "broken"),
        (b"\xef\xbb\xbfcaf\xe9", "broken"),
        (b"x" * (1 << 20) + b"y", "no caption is"),
    ],
)
def test_files_that_are_no_captions_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words) as caught:
        read_caption(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "line", "caption"),
    [
        ({}, "1girl,red  hair ,, smile", "1girl,red  hair ,, smile"),
        ({"trigger": "alice"}, "1girl, smile", "alice, 1girl, smile"),
        ({"trigger": "alice"}, "alice, 1girl", "alice, 1girl"),
        ({"trigger": "alice"}, "Alice, 1girl", "Alice, 1girl"),
        ({"trigger": "alice"}, "alice standing in a park", "alice standing in a park"),
        ({"trigger": "alice"}, "alicecore, 1girl", "alice, alicecore, 1girl"),
        ({"trigger": "alice"}, "alice_b, 1girl", "alice, alice_b, 1girl"),
        ({"trigger": "alice"}, "1girl, alice", "alice, 1girl, alice"),
        ({"trigger": "alice"}, "", "alice"),
        (
            {"prefix": "photo of", "trigger": "alice", "suffix": ", best quality"},
            "smile",
            "photo of alice, smile, best quality",
        ),
        ({"prefix": "masterpiece,"}, "smile", "masterpiece, smile"),
        ({"prefix": "photo", "suffix": "film"}, "", "photo film"),
        ({"keep_tokens_separator": "|||"}, "alice ||| 1girl, smile ||| hd", "alice, 1girl, smile, hd"),
        ({"wildcards": True}, "a {red|blue} hat", "a red hat"),
        ({}, "a {red|blue} hat", "a {red|blue} hat"),
    ],
)
def test_plain_captions(rules: dict, line: str, caption: str) -> None:
    assert CaptionRules(**rules).plain([line] if line else []) == caption


def uses(rules: CaptionRules, lines: list[str], count: int = 400) -> list[str]:
    return [rules.varied(lines, Draws("test", number)) for number in range(count)]


@pytest.mark.parametrize(
    ("rules", "line", "front", "back"),
    [
        ({}, "a, b, c, d", [], []),
        ({"keep_tokens": 2}, "a, b, c, d", ["a", "b"], []),
        ({"trigger": "alice"}, "a, b, c, d", ["alice"], []),
        ({"trigger": "alice"}, "alice, b, c, d", ["alice"], []),
        ({"trigger": "alice", "keep_tokens": 1}, "alice, b, c, d", ["alice"], []),
        ({"trigger": "alice", "keep_tokens": 1}, "a, b, c, d", ["alice", "a"], []),
        ({"trigger": "alice, wonder"}, "alice, wonder, b, c", ["alice", "wonder"], []),
        ({"keep_tokens_separator": "|||", "keep_tokens": 3}, "a ||| b, c, d", ["a"], []),
        ({"keep_tokens_separator": "|||"}, "a ||| b, c, d ||| e, f", ["a"], ["e", "f"]),
    ],
)
def test_shuffle_moves_loose_tags_only_and_loses_none(
    rules: dict, line: str, front: list[str], back: list[str]
) -> None:
    seen = set()
    tags = sorted({tag.strip() for tag in line.replace("|||", ",").split(",")} | set(front))
    for caption in uses(CaptionRules(shuffle_tags=True, **rules), [line], 100):
        parts = caption.split(", ")
        assert sorted(parts) == tags
        assert parts[: len(front)] == front and parts[len(parts) - len(back) :] == back
        seen.add(caption)
    loose = len(tags) - len(front) - len(back)
    assert len(seen) > {2: 1, 3: 5, 4: 20}[loose]


def test_tag_dropout_spares_trigger_and_kept_tags() -> None:
    rules = CaptionRules(tag_dropout=0.25, keep_tokens=1, trigger="alice", prefix="photo of")
    counts = Counter(tag for caption in uses(rules, ["a, b, c"], 2000) for tag in caption.split(", "))
    assert counts["photo of alice"] == counts["a"] == 2000
    assert 0.71 < counts["b"] / 2000 < 0.79
    assert 0.71 < counts["c"] / 2000 < 0.79


def test_full_tag_dropout_leaves_the_kept_part() -> None:
    assert set(uses(CaptionRules(tag_dropout=1.0, keep_tokens=1), ["a, b, c"])) == {"a"}
    assert set(uses(CaptionRules(tag_dropout=1.0, trigger="alice"), ["b, c"])) == {"alice"}


def test_caption_dropout_empties_the_whole_caption() -> None:
    captions = Counter(uses(CaptionRules(caption_dropout=0.3, trigger="alice", prefix="p", suffix="s"), ["a"], 2000))
    assert set(captions) == {"", "p alice, a s"}
    assert 0.26 < captions[""] / 2000 < 0.34


def test_wildcards_choose_lines_and_alternatives_evenly() -> None:
    captions = Counter(uses(CaptionRules(wildcards=True), ["a {red|blue|{light|dark} green} hat", "a tree"], 4000))
    assert set(captions) == {"a red hat", "a blue hat", "a light green hat", "a dark green hat", "a tree"}
    assert 0.46 < captions["a tree"] / 4000 < 0.54
    assert 0.13 < captions["a red hat"] / 4000 < 0.2


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("{a|b} and {c|d}", "a and c"),
        ("{a|{b|c}}", "a"),
        ("{{a|b}}", "{a|b}"),
        ("{only}", "only"),
        ("{|b}x", "x"),
        ("a } b", "a } b"),
        ("{a|b", "{a|b"),
    ],
)
def test_wildcard_grammar(text: str, expanded: str) -> None:
    assert expand_wildcards(text, first) == expanded


def test_unbalanced_braces_are_recognised() -> None:
    assert [unbalanced_braces(text) for text in ("{a}", "{a", "a}", "}{", "{{", "no")] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "lines", "varies"),
    [
        ({}, ["a, b"], False),
        ({"caption_dropout": 0.5}, ["a, b"], False),
        ({"shuffle_tags": True}, ["a, b"], True),
        ({"shuffle_tags": True}, ["a"], False),
        ({"shuffle_tags": True, "keep_tokens": 1}, ["a, b"], False),
        ({"shuffle_tags": True, "trigger": "t"}, ["t, b"], False),
        ({"tag_dropout": 0.1}, ["a"], True),
        ({"tag_dropout": 0.1, "keep_tokens": 1}, ["a"], False),
        ({"wildcards": True}, ["a"], False),
        ({"wildcards": True}, ["a", "b"], True),
        ({"wildcards": True}, ["{a|b}"], True),
        ({}, ["a", "b"], False),
        ({"shuffle_tags": True}, [], False),
    ],
)
def test_varies_says_whether_text_outputs_can_be_kept(rules: dict, lines: list[str], varies: bool) -> None:
    chosen = CaptionRules(**rules)
    assert chosen.varies(lines) == varies
    assert (len(set(uses(replace(chosen, caption_dropout=0), lines))) > 1) == varies
