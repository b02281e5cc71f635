"""A second look at an unchanged folder gives the report of the first without reading an image or caption."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset import known_report, scan, sources
from adapter_lab.training.dataset.known_report import report_on
from tests.support.pictures import noise, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path, f"2_cat/{number}.png", caption=f"cat, number {number}")
    write(tmp_path, "bare.png")
    (tmp_path / "note.md").write_text("x")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def settings(folder: Path, **options: object) -> DatasetConfig:
    return DatasetConfig(**{"folder": str(folder), "bucket_step": 8, "bucket_min": 16, **options})


def test_the_report_is_that_of_a_scan_the_first_and_the_second_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scan(settings(folder), 64).report(2, 1)
    first = report_on(settings(folder), 64, 2)
    monkeypatch.setattr(known_report, "scan", lambda *_: pytest.fail("looked again"))
    second = report_on(settings(folder), 64, 2)
    assert first == second == expected and first.text() == second.text()
    assert json.dumps(second.to_dict()) == json.dumps(expected.to_dict())


CHANGES = {
    "a caption": lambda folder: (folder / "2_cat/0.txt").write_text("cat, another"),
    "a caption of equal length": lambda folder: os.utime(folder / "2_cat/0.txt", (1, 1)),
    "an image": lambda folder: noise(80, 64).save(folder / "2_cat/0.png"),
    "one more": lambda folder: write(folder, "2_cat/new.png"),
    "one less": lambda folder: (folder / "2_cat/3.png").unlink(),
    "another name": lambda folder: (folder / "2_cat").rename(folder / "3_cat"),
    "a folder behind a link": lambda folder: (folder / "5_dog").symlink_to(folder / "2_cat"),
    "metadata": lambda folder: (folder / "metadata.jsonl").write_text('{"file_name": "bare.png", "text": "bare"}'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_in_the_folder_is_seen(change, folder: Path) -> None:
    before = report_on(settings(folder), 64)
    change(folder)
    assert report_on(settings(folder), 64) == scan(settings(folder), 64).report()
    if change is not CHANGES["a caption of equal length"]:
        assert report_on(settings(folder), 64) != before


def test_other_settings_have_reports_of_their_own(folder: Path) -> None:
    for options, resolution, batch in (({}, 64, 1), ({"repeats": 5}, 64, 1), ({}, 32, 1), ({}, 64, 3)):
        expected = scan(settings(folder, **options), resolution).report(batch)
        assert report_on(settings(folder, **options), resolution, batch) == expected


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}'])
def test_a_damaged_report_is_made_again(damage: str, folder: Path) -> None:
    expected = report_on(settings(folder), 64)
    file = folder / ".adapter-lab-cache" / "report.json"
    key = json.loads(file.read_text())["key"]
    for content in (damage, json.dumps({"key": key, "report": {"pictures": 3}}), json.dumps({"key": key, "report": 7})):
        file.write_text(content)
        assert report_on(settings(folder), 64) == expected


def test_without_a_cache_folder_nothing_is_kept(folder: Path) -> None:
    report_on(settings(folder, cache_latents="memory"), 64)
    assert not (folder / ".adapter-lab-cache").exists()


def test_an_index_of_the_first_release_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_lab.training.dataset import index

    expected = scan(settings(folder), 64)
    cache = folder / ".adapter-lab-cache"
    version, *lines = (cache / "pictures.jsonl").read_text().splitlines()
    pictures = {json.loads(name): json.loads(entry) for name, entry in (line.split("\t") for line in lines)}
    (cache / "pictures.json").write_text(json.dumps({**json.loads(version), "pictures": pictures}))
    (cache / "pictures.jsonl").unlink()
    monkeypatch.setattr(index, "inspect_picture", lambda path: pytest.fail(f"{path} was decoded"))
    assert scan(settings(folder), 64).items == expected.items


def test_the_memory_of_a_report_stays_within_its_bound(tmp_path: Path) -> None:
    """150 MB for 100,000 images are 1.5 KB for each; what Python's own objects take is measured here."""
    write(tmp_path, "drawn/a.png", noise(16, 16))
    count = 2000
    (tmp_path / "many").mkdir()
    for number in range(count):
        os.link(tmp_path / "drawn/a.png", tmp_path / f"many/{number:06}.png")
        (tmp_path / f"many/{number:06}.txt").write_text(f"subject, tag{number % 300}, tag{number % 77}, standing")
    config = settings(tmp_path / "many")
    report_on(settings(tmp_path / "drawn"), 16)  # what is imported and made once
    peaks = []
    for _ in range(2):  # what other tests of this process still have running may allocate meanwhile
        tracemalloc.start()
        try:
            report_on(config, 16)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        shutil.rmtree(tmp_path / "many" / ".adapter-lab-cache", ignore_errors=True)
    peak = min(peaks)
    assert peak / count < 3000  # 3.4 KB for each before; of this about 1 KB is what is made once, whatever the number


def test_a_folder_with_more_folders_than_images_have_is_refused_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sources, known_report):
        monkeypatch.setattr(module, "MOST_FOLDERS", 20)
    for number in range(30):
        (tmp_path / f"pictures/{number}").mkdir(parents=True)
    write(tmp_path, "pictures/3/a.png", noise(16, 16))
    for look in (scan, report_on):
        with pytest.raises(DatasetError, match=r"more than 20 folders below .*pictures"):
            look(settings(tmp_path / "pictures"), 16)
