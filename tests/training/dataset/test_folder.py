from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab.config import DatasetConfig, SourceConfig
from adapter_lab.errors import DatasetError
from adapter_lab.training.dataset import Dataset, scan
from tests.support.pictures import noise, write


def read(root: Path, **options: object) -> Dataset:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 8, "cache_latents": "off", **options}
    return scan(DatasetConfig(**settings))


def names(dataset: Dataset) -> list[str]:
    return [item.key.split("/", 1)[1] for item in dataset.items]


def test_kohya_folders_give_repeats_and_class_tokens(tmp_path: Path) -> None:
    write(tmp_path, "10_alice woman/a.png")
    write(tmp_path, "10_alice woman/inner/b.png")
    write(tmp_path, "3_bob_the_man/c.png", caption="a man")
    write(tmp_path, "plain/d.png")
    items = {item.path.name: item for item in read(tmp_path).items}
    assert [(items[name].repeats, items[name].plain_caption) for name in ("a.png", "b.png", "c.png", "d.png")] == [
        (10, "alice woman"),
        (10, "alice woman"),
        (3, "a man"),
        (1, ""),
    ]
    assert items["a.png"].folder == "10_alice woman"


def test_the_named_folder_may_itself_be_a_kohya_folder(tmp_path: Path) -> None:
    write(tmp_path, "5_cat/a.png")
    (item,) = read(tmp_path / "5_cat").items
    assert (item.repeats, item.plain_caption) == (5, "cat")


def test_settings_win_over_the_folder_name(tmp_path: Path) -> None:
    write(tmp_path, "5_cat/a.png")
    (item,) = read(tmp_path, repeats=2, class_tokens="dog").items
    assert (item.repeats, item.plain_caption) == (2, "dog")


def test_a_folder_of_no_repeats_is_listed_as_skipped(tmp_path: Path) -> None:
    write(tmp_path, "0_off/a.png")
    write(tmp_path, "1_on/b.png")
    dataset = read(tmp_path)
    assert names(dataset) == ["1_on/b.png"]
    assert [(path.name, "0 repeats" in reason) for path, reason in dataset.skipped] == [("a.png", True)]


def test_a_year_at_the_start_of_a_folder_name_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, "2024_holiday/a.png")
    assert any("2024_holiday are repeated 2024 times" in warning for warning in read(tmp_path).warnings)


@pytest.mark.parametrize(
    ("name", "meant"), [("10 alice", "10_alice"), ("5-cat eyes", "5_cat eyes"), ("2024-05-01", ""), ("alice 2", "")]
)
def test_a_folder_name_that_nearly_follows_kohya_is_pointed_out(tmp_path: Path, name: str, meant: str) -> None:
    write(tmp_path, f"{name}/a.png")
    warnings = [warning for warning in read(tmp_path).warnings if "but for the underscore" in warning]
    assert len(warnings) == bool(meant) and all(f"rename it {meant} " in warning for warning in warnings)


def test_nested_folders_unless_recursive_is_off(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "sub/deeper/c.png", "2_x/d.png", ".hidden/e.png", ".f.png"):
        write(tmp_path, name)
    assert names(read(tmp_path)) == ["a.png", "2_x/d.png", "sub/b.png", "sub/deeper/c.png"]
    flat = read(tmp_path, recursive=False)
    assert names(flat) == ["a.png", "2_x/d.png"]
    assert any("2 images (b.png, c.png): left out" in warning for warning in flat.warnings)


def test_a_link_to_a_folder_above_does_not_loop(tmp_path: Path) -> None:
    write(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert names(read(tmp_path)) == ["sub/a.png"]


@pytest.mark.parametrize(
    ("files", "extensions", "caption"),
    [
        (["a.txt", "a.caption"], [".txt", ".caption"], "from a.txt"),
        (["a.caption"], [".txt", ".caption"], "from a.caption"),
        (["a.txt", "a.caption"], [".caption", ".txt"], "from a.caption"),
        (["a.TXT"], [".txt"], "from a.TXT"),
        (["a.txt"], ["txt"], "from a.txt"),
        (["a.txt"], [".caption"], "cat"),
        ([], [".txt"], "cat"),
    ],
)
def test_the_first_caption_extension_found_wins(
    tmp_path: Path, files: list[str], extensions: list[str], caption: str
) -> None:
    write(tmp_path, "a.png")
    for name in files:
        (tmp_path / name).write_text(f"from {name}", "utf-8")
    (item,) = read(tmp_path, caption_extensions=extensions, class_tokens="cat").items
    assert item.plain_caption == caption
    assert item.has_caption == (caption != "cat")


def test_pictures_of_one_stem_share_a_caption_and_it_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(64, 64, 1), caption="both")
    write(tmp_path, "a.jpg", noise(64, 64, 2))
    dataset = read(tmp_path)
    assert [item.plain_caption for item in dataset.items] == ["both", "both"]
    assert any("a.jpg, a.png share the caption a.txt" in warning for warning in dataset.warnings)


def test_captions_without_a_picture_are_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", caption="x")
    (tmp_path / "a.png.txt").write_text("y")
    (tmp_path / "b.txt").write_text("z")
    (warning,) = [text for text in read(tmp_path).warnings if "no image of that name" in text]
    assert "2 caption files (a.png.txt, b.txt)" in warning
    assert "such as a.png.txt to a.txt" in warning


def test_other_files_are_listed_or_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    for name in ("b.heic", "c.psd", "d.npz", "e.npz", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    dataset = read(tmp_path)
    assert [(path.name, "not read; save it as PNG" in reason) for path, reason in dataset.skipped] == [
        ("b.heic", True),
        ("c.psd", True),
    ]
    assert dataset.ignored == {".npz": 2, ".db": 1}


def test_sources_have_options_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "one/a.png", caption="smile")
    write(tmp_path, "two/b.png", caption="smile")
    write(tmp_path, "classes/c.png", caption="person")
    other = SourceConfig(str(tmp_path / "two"), repeats=4, trigger="bob", prefix="photo of", flip=True)
    dataset = read(
        tmp_path / "one",
        trigger="alice",
        sources=[other],
        regularisation_folder=str(tmp_path / "classes"),
        prefix="art,",
    )
    assert [(i.plain_caption, i.repeats, i.source.flip, i.is_regularisation) for i in dataset.items] == [
        ("art, alice, smile", 1, False, False),
        ("photo of bob, smile", 4, True, False),
        ("person", 1, False, True),
    ]


def test_pictures_of_a_nested_source_belong_to_it_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    write(tmp_path, "classes/b.png")
    dataset = read(tmp_path, regularisation_folder=str(tmp_path / "classes"))
    assert [(item.path.name, item.is_regularisation) for item in dataset.items] == [("a.png", False), ("b.png", True)]


def test_keys_are_unique_across_sources_of_one_name(tmp_path: Path) -> None:
    write(tmp_path, "one/pictures/a.png", noise(64, 64, 1))
    write(tmp_path, "two/pictures/a.png", noise(64, 64, 2))
    dataset = read(tmp_path / "one/pictures", sources=[SourceConfig(str(tmp_path / "two/pictures"))])
    assert [item.key for item in dataset.items] == ["pictures/a.png", "pictures-2/a.png"]


def mask_folder(tmp_path: Path) -> Path:
    write(tmp_path, "a.png", noise(64, 64, 1))
    write(tmp_path, "b.jpg", noise(64, 64, 2))
    write(tmp_path, "c.png", noise(64, 64, 3))
    write(tmp_path, "a.mask.png", noise(64, 64, 4).convert("L"))
    write(tmp_path, "masks/b.png", noise(64, 64, 5).convert("L"))
    return tmp_path


def test_mask_files_belong_to_their_picture(tmp_path: Path) -> None:
    dataset = read(mask_folder(tmp_path), mask="file")
    masks = {item.path.name: item.mask_path and item.mask_path.name for item in dataset.items}
    assert masks == {"a.png": "a.mask.png", "b.jpg": "b.png", "c.png": None}
    assert not dataset.skipped
    assert any("1 image (c.png): no mask file" in warning for warning in dataset.warnings)


def test_mask_files_are_not_trained_on_when_masks_are_off(tmp_path: Path) -> None:
    dataset = read(mask_folder(tmp_path))
    assert names(dataset) == ["a.png", "b.jpg", "c.png"]
    assert sorted(path.name for path, reason in dataset.skipped if "set dataset.mask to `file`" in reason) == [
        "a.mask.png",
        "b.png",
    ]


def test_a_folder_called_masks_may_hold_pictures(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    write(tmp_path, "masks/venetian.png")
    assert names(read(tmp_path, mask="file")) == ["a.png", "masks/venetian.png"]


@pytest.mark.parametrize("mask", ["alpha", "file"])
def test_asking_for_masks_where_there_are_none_is_pointed_out(tmp_path: Path, mask: str) -> None:
    write(tmp_path, "a.png")
    assert any(f"dataset.mask is `{mask}`, but no image" in warning for warning in read(tmp_path, mask=mask).warnings)


def only_captions(folder: Path) -> None:
    (folder / "a.txt").write_text("x")


def only_below(folder: Path) -> None:
    write(folder, "sub/a.png")


def only_broken(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"x")


def only_small(folder: Path) -> None:
    write(folder, "a.png", noise(9, 9))


def only_other(folder: Path) -> None:
    (folder / "a.npz").write_bytes(b"x")


def only_unread(folder: Path) -> None:
    (folder / "a.heic").write_bytes(b"x")


@pytest.mark.parametrize(
    ("fill", "options", "words"),
    [
        (None, {}, "holds no images; put images"),
        (only_captions, {}, r"holds captions \(1\) but no images; put the images .* such as a.png"),
        (only_below, {"recursive": False}, "1 in subfolders such as sub; switch dataset.recursive on"),
        (only_broken, {}, "No image in .*a.png: not an image, or broken"),
        (only_small, {}, "9 x 9 pixels is smaller than the shortest bucket side of 16; use a larger"),
        (only_other, {}, r"holds no images \(but 1 .npz\)"),
        (only_unread, {}, "a.heic: .heic files are not read"),
    ],
)
def test_a_folder_without_usable_pictures_is_explained(tmp_path: Path, fill: object, options: dict, words: str) -> None:
    if callable(fill):
        fill(tmp_path)
    with pytest.raises(DatasetError, match=words) as caught:
        read(tmp_path, **options)
    assert str(tmp_path) in str(caught.value)


def test_folders_that_do_not_exist_are_explained(tmp_path: Path) -> None:
    write(tmp_path, "pictures/a.png")
    for given, words in [
        (tmp_path / "pictrues", f"does not exist.*Did you mean {tmp_path / 'pictures'}"),
        (tmp_path / "zzz", "does not exist; check its spelling.$"),
        (tmp_path / "x" / "y", f"does not exist.*only {tmp_path} exists"),
        (tmp_path / "pictures" / "a.png", f"is a file.*name the folder it lies in, {tmp_path / 'pictures'}"),
    ]:
        with pytest.raises(DatasetError, match=words):
            read(given)
    with pytest.raises(DatasetError, match=r"dataset\.folder is empty"):
        read(Path(""), folder="")
    with pytest.raises(DatasetError, match=r"given as dataset\.folder and as dataset\.sources"):
        read(tmp_path / "pictures", sources=[SourceConfig(str(tmp_path / "pictures/"))])


def test_quotes_and_home_in_a_folder_name_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "my pictures/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read(tmp_path, folder=f'"{tmp_path}/my pictures"').items) == 1
    assert len(read(tmp_path, folder="~/my pictures").items) == 1


def test_regularisation_pictures_alone_are_not_enough(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(DatasetError, match="only regularisation images"):
        read(tmp_path, folder="", regularisation_folder=str(tmp_path))


def test_names_in_any_script_and_case_are_kept(tmp_path: Path) -> None:
    for name in ("日本 猫.png", "É.PNG", "a.b.c.JPG", "x" * 200 + ".png"):
        write(tmp_path, name, caption=name)
    dataset = read(tmp_path)
    assert len(dataset.items) == 4
    assert all(item.plain_caption == item.path.name for item in dataset.items)
