"""Links in training folders: every name of a folder counts, loops end, and what is left out is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset import Dataset, scan
from tests.support.pictures import write


def read(root: Path, **options: object) -> Dataset:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 8, "cache_latents": "off", **options}
    return scan(DatasetConfig(**settings))


def uses(dataset: Dataset) -> dict[str, int]:
    return {item.key.split("/", 1)[1]: item.repeats for item in dataset.items}


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target, target_is_directory=True)


def test_two_links_to_one_folder_are_two_concepts(tmp_path: Path) -> None:
    write(tmp_path, "pics/a.png")
    write(tmp_path, "pics/inner/b.png")
    for name in ("2_alice", "5_bob"):
        link(tmp_path / "links" / name, tmp_path / "pics")
    dataset = read(tmp_path / "links")
    assert uses(dataset) == {"2_alice/a.png": 2, "2_alice/inner/b.png": 2, "5_bob/a.png": 5, "5_bob/inner/b.png": 5}
    assert {item.plain_caption for item in dataset.items} == {"alice", "bob"}
    assert dataset.report().uses_per_epoch == 14


def test_a_link_beside_the_folder_it_leads_to_counts_too(tmp_path: Path) -> None:
    write(tmp_path, "1_a/a.png")
    link(tmp_path / "3_b", tmp_path / "1_a")
    assert uses(read(tmp_path)) == {"1_a/a.png": 1, "3_b/a.png": 3}


@pytest.mark.parametrize("target", [".", "1_a", "1_a/deeper"])
def test_a_link_to_a_folder_it_lies_in_ends_there(tmp_path: Path, target: str) -> None:
    write(tmp_path, "1_a/deeper/a.png")
    link(tmp_path / "1_a/deeper/up", tmp_path / target)
    dataset = read(tmp_path)
    assert next(iter(uses(dataset))) == "1_a/deeper/a.png"
    assert len(dataset.items) == 1


def test_folders_that_link_to_each_other_are_refused_in_a_sentence(tmp_path: Path) -> None:
    folders = [tmp_path / f"f{index}" for index in range(7)]
    for folder in folders:
        write(folder, "a.png")
    for folder in folders:
        for other in folders:
            if other != folder:
                link(folder / f"to_{other.name}", other)
    with pytest.raises(DatasetError, match="more than 200 ways; remove some"):
        read(tmp_path)


def test_a_link_to_another_source_is_said_to_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png")
    write(tmp_path, "classes/b.png")
    link(tmp_path / "train/reg", tmp_path / "classes")
    dataset = read(tmp_path / "train", regularisation_folder=str(tmp_path / "classes"))
    assert [item.key for item in dataset.items] == ["train/a.png", "classes/b.png"]
    assert [(path.name, "source of its own" in reason) for path, reason in dataset.skipped] == [("reg", True)]


def test_many_pictures_that_two_folders_share_are_one_sentence(tmp_path: Path) -> None:
    for index in range(8):
        write(tmp_path, f"1_a/{index}.png")
    link(tmp_path / "2_b", tmp_path / "1_a")
    said = [warning for warning in read(tmp_path).warnings if "leave one out" in warning]
    assert said == ["8 images are in each of 1_a, 2_b; if that is not meant, leave one out."]
