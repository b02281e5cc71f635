from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapter_lab.config import DatasetConfig
from adapter_lab.errors import ConfigError, DatasetError
from adapter_lab.training.dataset import Dataset, index, load_pixels, scan
from tests.support.pictures import noise, quarters, write


def read(root: Path, **options: object) -> Dataset:
    settings = {"folder": str(root), "resolution": 64, "bucket_step": 16, "cache_latents": "off", **options}
    return scan(DatasetConfig(**settings))


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def save(picture: Image.Image, **options: object) -> Callable[[Path], object]:
    return lambda path: picture.save(path, **options)


def cut(picture: Image.Image, share: float = 0.6) -> Callable[[Path], object]:
    def write_part(path: Path) -> None:
        picture.save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write_part


SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6

# name, how it is made, and (w, h) if it is used, else words of the reason.
PICTURES: list[tuple[str, Callable[[Path], object], tuple[int, int] | str]] = [
    ("plain.png", save(noise(64, 64)), (64, 64)),
    ("cmyk.jpg", save(quarters(64, 64).convert("CMYK")), (64, 64)),
    ("16bit.png", save(Image.new("I;16", (64, 64), 3000)), (64, 64)),
    ("palette.png", save(quarters(64, 64).quantize(4)), (64, 64)),
    ("sideways.jpg", save(quarters(96, 48), exif=SIDEWAYS), (48, 96)),
    ("animated.gif", save(quarters(64, 64), save_all=True, append_images=[noise(64, 64)]), (64, 64)),
    ("wrong suffix.png", lambda path: noise(64, 64, 2).save(path, "JPEG"), (64, 64)),
    ("one pixel.png", save(noise(1, 1)), "1 x 1 pixels is smaller than the shortest bucket side of 16"),
    ("thread.png", save(noise(500, 3)), "500 x 3 pixels is smaller"),
    ("bomb.png", save(Image.new("1", (14143, 14143))), "200 megapixels"),
    ("truncated.png", cut(noise(64, 64)), "cut off"),
    ("truncated.jpg", cut(noise(64, 64)), "cut off"),
    ("truncated.webp", cut(noise(64, 64)), "cannot be decoded"),
    ("empty.png", raw(b""), "empty"),
    ("text.jpg", raw(b"hello"), "not an image"),
    ("invisible.png", save(Image.new("RGBA", (64, 64))), "fully transparent"),
    ("phone.heic", raw(b"x"), "not read; save it as PNG"),
    ("gone.png", lambda path: path.symlink_to(path.parent / "nowhere"), "No such file"),
]


def test_bad_pictures_are_listed_and_the_others_are_used(tmp_path: Path) -> None:
    for name, make, _ in PICTURES:
        make(tmp_path / name)
    dataset = read(tmp_path)
    used = {item.path.name: item.size for item in dataset.items}
    skipped = {path.name: reason for path, reason in dataset.skipped}
    for name, _, expected in PICTURES:
        if isinstance(expected, tuple):
            assert used.pop(name) == expected
        else:
            assert expected in skipped.pop(name)
    assert not used and not skipped
    for batch in dataset.plan(0, 1, 0):
        pixels, _ = load_pixels(batch.items[0])
        assert pixels.shape == (3, batch.bucket[1], batch.bucket[0])
    text = dataset.report().text()
    assert all(name in text for name, _, expected in PICTURES if isinstance(expected, str) or name == "animated.gif")


CAPTIONS = [
    ("utf8.txt", "naïve".encode(), "naïve", ""),
    ("mark.txt", "naïve".encode("utf-8-sig"), "naïve", ""),
    ("utf16.txt", "naïve".encode("utf-16"), "naïve", ""),
    ("latin.txt", "naïve".encode("latin-1"), "naïve", "1 file (latin.txt): not UTF-8, read as Latin-1"),
    ("crlf.txt", b"one\r\ntwo\r\n", "one", "1 caption (crlf.png): several lines, of which only the first is used"),
    ("empty.txt", b"", "cat", "1 file (empty.txt): an empty caption file, taken as no caption"),
    ("blank.txt", b"\xef\xbb\xbf\r\n", "cat", ""),
    ("binary.txt", bytes(range(256)), "cat", "binary.txt is not a text file"),
]


def test_bad_captions_are_read_or_said(tmp_path: Path) -> None:
    for number, (name, content, _, _) in enumerate(CAPTIONS):
        write(tmp_path, f"{Path(name).stem}.png", noise(64, 64, number))
        (tmp_path / name).write_bytes(content)
    dataset = read(tmp_path, class_tokens="cat")
    captions = {item.path.stem: item.plain_caption for item in dataset.items}
    for name, _, caption, _ in CAPTIONS:
        assert captions[Path(name).stem] == caption
    warnings = "\n".join(dataset.warnings).replace("2 files (blank.txt, empty.txt)", "1 file (empty.txt)")
    for _, _, _, words in CAPTIONS:
        assert words in warnings
    assert sorted(path for path, _ in dataset.report().without_caption) == [
        str(tmp_path / f"{stem}.png") for stem in ("binary", "blank", "empty")
    ]


def test_the_second_scan_looks_at_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make, _ in PICTURES:
        make(tmp_path / name)
    first = read(tmp_path, cache_latents="disk")
    monkeypatch.setattr(index, "inspect_picture", lambda path: pytest.fail(f"{path} was decoded"))
    known = index.file_digest
    monkeypatch.setattr(
        index, "file_digest", lambda path: known(path) if path.name == "gone.png" else pytest.fail(str(path))
    )
    second = read(tmp_path, cache_latents="disk")
    assert second.items == first.items and second.skipped == first.skipped


def test_the_index_notices_changes_and_survives_damage(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", noise(64, 64))
    write(tmp_path, "b.png", noise(64, 64, 1))
    sizes = lambda: [item.size for item in read(tmp_path, cache_latents="disk").items]  # noqa: E731
    assert sizes() == [(64, 64), (64, 64)]
    write(tmp_path, "a.png", noise(80, 64))
    assert sizes() == [(80, 64), (64, 64)]
    path.write_bytes(b"broken")
    assert sizes() == [(64, 64)]
    file = tmp_path / ".adapter-lab-cache" / "pictures.jsonl"
    for damage in ("", "{", "[]", '{"version": 3}', file.read_text().replace("64", '"x"'), file.read_text()[:-30]):
        file.write_text(damage)
        assert sizes() == [(64, 64)]


def test_a_moved_folder_keeps_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", "a.png")
    read(tmp_path / "here", cache_latents="disk")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setattr(index, "inspect_picture", lambda path: pytest.fail(f"{path} was decoded"))
    assert len(read(tmp_path / "there", cache_latents="disk").items) == 1


def test_a_scan_broken_off_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        write(tmp_path, f"{number:02}.png")

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    config = DatasetConfig(folder=str(tmp_path), bucket_step=16)
    with pytest.raises(KeyboardInterrupt):
        scan(config, 64, stop)
    told: list[int] = []
    assert len(scan(config, 64, lambda done, total: told.append(total)).items) == 40
    assert told == [30] * 30


def test_progress_is_told_per_picture(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"{number}.png")
    told: list[tuple[int, int]] = []
    scan(
        DatasetConfig(folder=str(tmp_path), bucket_step=16), 64, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    scan(
        DatasetConfig(folder=str(tmp_path), bucket_step=16), 64, progress=lambda done, total: told.append((done, total))
    )
    assert len(told) == 4


def test_a_resolution_is_needed(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"dataset\.resolution is 0"):
        scan(DatasetConfig(folder=str(tmp_path)))


def test_findings_name_the_pictures(tmp_path: Path) -> None:
    write(tmp_path, "twin1.png", noise(64, 64, 1))
    write(tmp_path, "twin2.png", noise(64, 64, 1))
    write(tmp_path, "small.png", noise(20, 20, 2))
    write(tmp_path, "long.png", noise(300, 17, 3))
    warnings = "\n".join(read(tmp_path).warnings)
    assert "twin1.png, twin2.png are the same image" in warnings
    assert "1 image (small.png): less than a quarter of the training resolution's area" in warnings
    assert "1 image (long.png): more than a quarter is lost by cropping" in warnings
    enlarged = read(tmp_path, upscale=True)
    assert any("1 image (small.png): enlarged, up to 3.2 times" in warning for warning in enlarged.warnings)


def test_a_black_mask_takes_its_picture_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    write(tmp_path, "b.png")
    write(tmp_path, "a.mask.png", Image.new("L", (64, 64)))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/b.png").write_bytes(b"broken")
    write(tmp_path, "c.png")
    dataset = read(tmp_path, mask="file")
    assert [item.path.name for item in dataset.items] == ["c.png"]
    assert [reason for _, reason in dataset.skipped] == [
        "its mask a.mask.png is no use: all black, so nothing of the image would be learned; repaint it",
        "its mask b.png is no use: not an image, or broken at its start; get a whole copy or remove it",
    ]


def test_masks_of_another_shape_are_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(64, 64))
    write(tmp_path, "a.mask.png", noise(64, 32))
    assert any("another aspect ratio" in warning for warning in read(tmp_path, mask="file").warnings)


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.01, 1), (0.2, 2), (0.25, 2), (0.5, 5)])
def test_held_out_pictures_are_chosen_by_content(tmp_path: Path, fraction: float, count: int) -> None:
    for number in range(10):
        write(tmp_path, f"pictures/{number}.png", noise(64, 64, number))
        write(tmp_path, f"classes/{number}.png", noise(64, 64, 100 + number))
    options = {"validation_fraction": fraction, "regularisation_folder": str(tmp_path / "classes")}
    dataset = read(tmp_path / "pictures", **options)
    assert len(dataset.held_out) == count and len(dataset.items) == 20 - count
    assert not any(item.is_regularisation for item in dataset.held_out)
    held = {item.digest for item in dataset.held_out}
    assert not held & {item.digest for item in dataset.items}
    for number in range(10):
        (tmp_path / f"pictures/{number}.png").rename(tmp_path / f"pictures/renamed {9 - number}.png")
    assert {item.digest for item in read(tmp_path / "pictures", **options).held_out} == held


def test_copies_of_a_picture_are_held_out_together(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path, f"{number}.png", noise(64, 64, number // 2))
    dataset = read(tmp_path, validation_fraction=0.3)
    assert len(dataset.held_out) == 2 and len({item.digest for item in dataset.held_out}) == 1


def test_one_picture_cannot_be_split(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(DatasetError, match="at least two different images"):
        read(tmp_path, validation_fraction=0.1)


def example(tmp_path: Path) -> Dataset:
    for number in range(6):
        write(
            tmp_path, f"10_alice woman/{number}.png", noise(64, 64, number), caption="alice, smile" if number else None
        )
    write(tmp_path, "10_alice woman/wide.png", noise(96, 48, 20), caption="alice, hat")
    write(tmp_path, "classes/c.png", noise(64, 64, 30), caption="person")
    (tmp_path / "10_alice woman/bad.png").write_bytes(b"bad")
    (tmp_path / "10_alice woman/old.npz").write_bytes(b"x")
    return read(tmp_path, regularisation_folder=str(tmp_path / "classes"))


def test_report_numbers_are_those_of_the_plan(tmp_path: Path) -> None:
    dataset = example(tmp_path)
    for batch_size, accumulation in [(1, 1), (4, 1), (4, 3), (64, 2)]:
        report = dataset.report(batch_size, accumulation)
        for epoch in range(3):
            batches = dataset.plan(epoch, batch_size, seed=5)
            assert report.batches_per_epoch == len(batches) == sum(line.batches for line in report.buckets)
            assert report.uses_per_epoch == sum(len(batch) for batch in batches) == 140
            assert report.steps_per_epoch == -(-len(batches) // accumulation)
            for line in report.buckets:
                group = [batch for batch in batches if batch.bucket == (line.width, line.height)]
                assert (len(group), sum(len(batch) for batch in group)) == (line.batches, line.uses)


def test_report_for_programs_and_people(tmp_path: Path) -> None:
    report = example(tmp_path).report(4, 2)
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["pictures"], values["regularisation_pictures"], values["steps_per_epoch"]) == (7, 1, 18)
    assert values["top_tags"] == [["alice", 6], ["smile", 5], ["alice woman", 1], ["hat", 1]]
    assert values["skipped"][0][0] == str(tmp_path / "10_alice woman/bad.png")
    assert values["without_caption"] == [[str(tmp_path / "10_alice woman/0.png"), "alice woman"]]
    assert values["ignored"] == {".npz": 1}
    text = report.text()
    for words in (
        "Images     7, 1 for regularisation",
        "10_alice woman       7 x 10 per epoch",
        "Epoch      18 steps (140 uses in 36 batches of up to 4, 2 batches a step)",
        "80 x 48 ",
        "alice 6, smile 5",
        "1 image without a caption",
        "trained as 'alice woman'",
        "bad.png: not an image",
        "1 .npz",
    ):
        assert words in text, text
    assert all(len(line) <= 100 or os.sep in line for line in text.splitlines())


def test_long_lists_are_cut_in_the_text_alone(tmp_path: Path) -> None:
    write(tmp_path, "good.png")
    for number in range(65):
        (tmp_path / f"bad{number}.png").write_bytes(b"bad")
    report = read(tmp_path).report()
    assert "and 15 more" in report.text() and len(report.to_dict()["skipped"]) == 65


def test_counts_for_the_metadata_of_adapter_files(tmp_path: Path) -> None:
    dataset = example(tmp_path)
    assert dataset.folder_counts() == {
        "10_alice woman": {"n_repeats": 10, "img_count": 7},
        "classes": {"n_repeats": 1, "img_count": 1},
    }
    assert dataset.tag_counts_by_folder()["classes"] == {"person": 1}
    assert dataset.bucket_counts() == {(64, 64): (7, 130), (80, 48): (1, 10)}


def test_equal_images_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    for folder in ("2_alice", "5_bob"):
        write(tmp_path, f"{folder}/p.png", noise(64, 64, 1))
    write(tmp_path, "2_alice/other.png", noise(64, 64, 2))
    (found,) = [warning for warning in read(tmp_path).warnings if "same image" in warning]
    assert found.startswith("2_alice/p.png, 5_bob/p.png are the same image")


@pytest.mark.parametrize("repeats", [10**8, 2**63 - 1])
def test_an_epoch_without_end_is_refused(tmp_path: Path, repeats: int) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(DatasetError, match=rf"a\.png has {repeats:,} repeats\. Lower dataset\.repeats"):
        read(tmp_path, repeats=repeats)
    write(tmp_path / "named", f"{repeats}_cat/a.png")
    with pytest.raises(DatasetError, match="or the number in the folder's name"):
        read(tmp_path / "named")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("name", ["b.png", "a.txt", "a.mask.png", "metadata.jsonl"])
def test_what_is_no_file_is_left_out_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / name)
    dataset = read(tmp_path, mask="file")
    assert [item.path.name for item in dataset.items] == ["a.png"]
    assert [(path.name, why) for path, why in dataset.skipped] == [
        (name, "no file but a pipe, a socket or a device, which may never end; remove it")
    ]


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "b\x1b[31m\n.png").write_bytes(b"no image")
    text = read(tmp_path).report(1, 1).text()
    assert "b\\x1b[31m\\n.png: " in text and "\x1b" not in text
