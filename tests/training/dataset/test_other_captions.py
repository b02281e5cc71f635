"""Captions as other programs keep them: metadata files, JSON, several files per image, other encodings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset import Dataset, scan
from adapter_lab.training.dataset.captions import read_caption
from tests.support.pictures import write


def read(root: Path, **options: object) -> Dataset:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 8, "cache_latents": "off", **options}
    return scan(DatasetConfig(**settings))


def captions(dataset: Dataset) -> dict[str, str]:
    return {item.key.split("/", 1)[1]: item.plain_caption for item in dataset.items}


def pictures(root: Path, *names: str) -> None:
    for name in names:
        write(root, name)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_a_metadata_file_of_hugging_face_gives_captions(name: str, column: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "sub/b.png", "c.png")
    rows = [{"file_name": "a.png", column: "image a, red"}, {"file_name": "sub/b.png", column: "Bär"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith("csv"):
        text = f'file_name,{column}\na.png,"image a, red"\nsub/b.png,Bär\n'
    (tmp_path / name).write_text(text, "utf-8")
    dataset = read(tmp_path)
    assert captions(dataset) == {"a.png": "image a, red", "c.png": "", "sub/b.png": "Bär"}
    assert f"2 captions: read from {name}." in dataset.warnings
    assert [item.has_caption for item in dataset.items] == [True, False, True]


def test_kohyas_metadata_gives_captions_by_path_and_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    entries = {
        "D:\\train\\a.png": {"caption": "a cat", "tags": "cat, sitting", "train_resolution": [64, 64]},
        "b": {"tags": "dog"},
        "gone": {"caption": "nothing"},
    }
    (tmp_path / "meta_lat.json").write_text(json.dumps(entries))
    dataset = read(tmp_path)
    assert captions(dataset) == {"a.png": "a cat, cat, sitting", "b.png": "dog", "c.png": ""}
    assert any("1 caption (gone) of a metadata file: no image" in warning for warning in dataset.warnings)


@pytest.mark.parametrize("extensions", [[".txt"], [".json"], [".txt", ".json"]])
@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ({"caption": "a cat"}, "a cat"),
        ({"tags": ["cat", "red"], "id": 7}, "cat, red"),
        ("a cat", "a cat"),
        ({"text": "x"}, "x"),
    ],
)
def test_a_json_file_beside_a_picture_is_read_as_json(
    content: object, caption: str, extensions: list[str], tmp_path: Path
) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = read(tmp_path, caption_extensions=extensions)
    assert captions(dataset) == {"a.png": caption}
    assert "1 caption (a.json): read from .json." in dataset.warnings


@pytest.mark.parametrize("content", ['{"width": 5}', "{broken", "[1, 2]"])
def test_json_without_a_caption_is_one_warning_and_never_trained_on(content: str, tmp_path: Path) -> None:
    for name in "abcdefg":
        pictures(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.json").write_text(content)
    dataset = read(tmp_path, caption_extensions=[".json"])
    assert set(captions(dataset).values()) == {""}
    assert len([w for w in dataset.warnings if "caption, text, prompt, tags" in w and w.startswith("7 files")]) == 1


@pytest.mark.parametrize("content", ["{broken", '["a"]\n', '{"name": "a.png"}\n'])
def test_a_metadata_file_that_makes_no_sense_is_named(content: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(content)
    dataset = read(tmp_path)
    assert captions(dataset) == {"a.png": ""}
    assert any(warning.startswith("metadata.jsonl ") for warning in dataset.warnings)


def test_a_second_caption_of_a_picture_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("tags")
    (tmp_path / "a.caption").write_text("a sentence")
    (tmp_path / "b.txt").write_text("tags")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "a sentence"}\n')
    dataset = read(tmp_path)
    assert captions(dataset) == {"a.png": "tags", "b.png": "tags"}
    [said] = [warning for warning in dataset.warnings if "are there twice" in warning]
    assert "a.txt and not a.caption, b.txt and not metadata.jsonl" in said


JAPANESE = "1girl, 青い髪の女の子, ドレス"
CHINESE = "1girl, 一个女孩, 长发, 蓝色眼睛, 站在花园里"


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (JAPANESE, "cp932", "Shift-JIS"),
        (CHINESE, "gbk", "GBK"),
        ("masterpiece, best quality, 长发", "gbk", "GBK"),
        (JAPANESE, "utf-16", ""),
        (JAPANESE, "utf-16-le", "UTF-16"),
        (CHINESE, "utf-16-be", "UTF-16"),
        ("naïve café, Müller, 90°", "latin-1", "Latin-1"),
        ("a “quote” – and more…", "cp1252", "Latin-1"),
        (CHINESE, "utf-8-sig", ""),
    ],
)
def test_captions_in_other_encodings_are_read_where_these_are_certain(
    text: str, encoding: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    found = read_caption(tmp_path / "a.txt")
    assert found.lines == (text,) and named in found.remark and bool(named) == bool(found.remark)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("푸른 머리의 소녀, 드레스", "euc-kr"),
        ("девушка, синие волосы", "cp1251"),
        ("藍髮, 少女, 連身裙", "big5"),
        ("青髪, 少女", "cp932"),
        ("青い髪の女の子", "euc-jp"),
    ],
)
def test_captions_in_an_uncertain_encoding_are_one_warning_and_not_trained_on(
    text: str, encoding: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        pictures(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text.encode(encoding))
    dataset = read(tmp_path)
    assert set(captions(dataset).values()) == {""}
    assert [w for w in dataset.warnings if "encoding" in w] == [
        "2 files (a.txt, b.txt): neither UTF-8 nor another encoding for certain, so taken as no caption; save as UTF-8."
    ]


def test_a_line_of_metadata_that_cannot_be_read_costs_its_own_caption_only(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    good = ['{"file_name": "a.png", "text": "first"}', '{"file_name": "c.png", "text": "third"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join([good[0], '{"file_name": "b.png", ', good[1]]))
    dataset = read(tmp_path)
    assert [item.plain_caption for item in dataset.items] == ["first", "", "third"]
    [warning] = [text for text in dataset.warnings if text.startswith("metadata.jsonl")]
    assert "has a line that cannot be read (line 2: " in warning and "line 1" not in warning
