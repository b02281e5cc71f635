from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_lab.config import DatasetConfig, SourceConfig
from adapter_lab.training.dataset import Batch, Dataset, scan
from adapter_lab.training.dataset.plan import regularisation_quotas
from adapter_lab.training.dataset.randomness import Draws
from tests.support.pictures import noise, write

SIZES = [(64, 64), (90, 48), (48, 80), (70, 64), (64, 64)]


def folder(tmp_path: Path) -> Path:
    """Seven images x 3, five x 1, in several buckets."""
    for index in range(7):
        write(tmp_path, f"3_alice/{index}.png", noise(*SIZES[index % 5], seed=index), caption="1girl, red, hat, tree")
    for index in range(5):
        write(tmp_path, f"bob/{index}.png", noise(*SIZES[index % 3], seed=50 + index), caption="1boy, blue, cap, sea")
    return tmp_path


def config(tmp_path: Path, **options: object) -> DatasetConfig:
    settings = {"folder": str(tmp_path), "resolution": 64, "bucket_step": 16, "bucket_min": 16, "cache_latents": "off"}
    return DatasetConfig(**{**settings, **options})


VARIED = {"shuffle_tags": True, "tag_dropout": 0.2, "caption_dropout": 0.1, "flip": True, "random_crop": True,
          "color_augment": True, "trigger": "t"}  # fmt: skip


@pytest.fixture
def varied(tmp_path: Path) -> Dataset:
    return scan(config(folder(tmp_path), **VARIED))


def describe(batches: list[Batch]) -> list[list[tuple[object, ...]]]:
    return [[(s.key, s.caption, s.flip, s.crop, s.repeat, s.color_seed) for s in batch.items] for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_picture_is_used_as_often_as_it_repeats(varied: Dataset, batch_size: int) -> None:
    for epoch in range(3):
        batches = varied.plan(epoch, batch_size, seed=1)
        counts = Counter((sample.item.path, sample.repeat) for batch in batches for sample in batch.items)
        assert counts == {(item.path, repeat): 1 for item in varied.items for repeat in range(item.repeats)}
        assert len(batches) == varied.batches_per_epoch(batch_size)
        assert all(len({sample.bucket for sample in batch.items}) == 1 for batch in batches)
        assert all(len(batch) <= batch_size for batch in batches)


def test_only_the_last_batch_of_a_bucket_is_short(varied: Dataset) -> None:
    short = Counter(batch.bucket for batch in varied.plan(0, 4, 0) if len(batch) < 4)
    assert max(short.values()) == 1


def test_plan_is_a_function_of_its_arguments(varied: Dataset) -> None:
    first = describe(varied.plan(3, 2, 7))
    varied.plan(0, 5, 1)
    assert describe(varied.plan(3, 2, 7)) == first
    assert describe(varied.plan(4, 2, 7)) != first
    assert describe(varied.plan(3, 2, 8)) != first


def test_each_use_is_the_same_whatever_its_batch(varied: Dataset) -> None:
    """So that variants trained at different batch sizes see the same crops and captions."""
    by_size = [sorted(use for batch in describe(varied.plan(2, size, 7)) for use in batch) for size in (1, 3)]
    assert by_size[0] == by_size[1]


def test_turning_one_augmentation_on_leaves_the_others_alone(tmp_path: Path) -> None:
    folder(tmp_path)
    off = scan(config(tmp_path, flip=True, shuffle_tags=True)).plan(0, 2, 5)
    on = scan(config(tmp_path, flip=True, shuffle_tags=True, random_crop=True, color_augment=True)).plan(0, 2, 5)
    assert [(s.key, s.caption, s.flip) for b in off for s in b.items] == [
        (s.key, s.caption, s.flip) for b in on for s in b.items
    ]
    assert any(one.crop != other.crop for a, b in zip(off, on) for one, other in zip(a.items, b.items))


PRINT_PLAN = """
import sys
from adapter_lab.config import DatasetConfig
from adapter_lab.training.dataset import scan
options = eval(sys.argv[2])
settings = {"resolution": 64, "bucket_step": 16, "bucket_min": 16, "cache_latents": "off"}
dataset = scan(DatasetConfig(folder=sys.argv[1], **settings, **options))
for batch in dataset.plan(1, 2, 9):
    print([(s.key, s.caption, s.flip, s.crop, s.repeat, s.color_seed) for s in batch.items])
"""


def test_plan_does_not_depend_on_the_process(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures")
    command = [sys.executable, "-c", PRINT_PLAN, str(root), repr(VARIED)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    here = scan(config(root, **VARIED)).plan(1, 2, 9)
    assert printed.splitlines() == [str(batch) for batch in describe(here)]


def test_the_order_of_an_epoch_stays_what_it_was(tmp_path: Path) -> None:
    """A resumed run relies on it, whatever version of Python or of this program wrote the state."""
    plan = describe(scan(config(folder(tmp_path / "pictures"), **VARIED)).plan(1, 2, 9))
    assert hashlib.sha256(repr(plan).encode()).hexdigest()[:16] == "8c436a1d5a6b2523"


def test_moving_the_folder_does_not_change_the_plan(tmp_path: Path) -> None:
    one = scan(config(folder(tmp_path / "a" / "pictures"), **VARIED))
    other = scan(config(folder(tmp_path / "b" / "pictures"), **VARIED))
    assert describe(one.plan(0, 2, 1)) == describe(other.plan(0, 2, 1))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write(root, "bob/0.png", noise(64, 64, 99)),
        lambda root: (root / "bob/0.txt").write_text("changed"),
        lambda root: (root / "bob/4.png").unlink(),
        lambda root: write(root, "bob/9.png", noise(64, 64, 98)),
    ],
    ids=["picture", "caption", "removed", "added"],
)
def test_the_fingerprint_tells_a_changed_folder(tmp_path: Path, change: object) -> None:
    root = folder(tmp_path)
    before = scan(config(root)).fingerprint
    assert scan(config(root)).fingerprint == before
    change(root)  # type: ignore[operator]
    assert scan(config(root)).fingerprint != before


def test_half_of_the_uses_are_mirrored_where_flip_is_on(tmp_path: Path) -> None:
    write(tmp_path, "one/a.png")
    write(tmp_path, "two/b.png")
    dataset = scan(config(tmp_path / "one", repeats=400, flip=True, sources=[SourceConfig(str(tmp_path / "two"), 400)]))
    flips = Counter((s.item.path.name, s.flip) for batch in dataset.plan(0, 8, 3) for s in batch.items)
    assert 150 < flips["a.png", True] < 250
    assert flips["b.png", True] == 0


def test_random_crops_cover_the_slack_and_middle_crops_do_not_move(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(70, 64))
    for random_crop in (True, False):
        dataset = scan(config(tmp_path, repeats=200, random_crop=random_crop, bucket_step=64, bucket_min=64))
        crops = {sample.crop for batch in dataset.plan(0, 8, 3) for sample in batch.items}
        assert crops == ({(left, 0) for left in range(7)} if random_crop else {(3, 0)})
        assert dataset.cacheable == (not random_crop)


def test_sdxl_conditioning_sizes(tmp_path: Path) -> None:
    write(tmp_path, "a.png", noise(151, 100))
    dataset = scan(config(tmp_path, repeats=20, flip=True, bucket_step=64, bucket_min=64, buckets=False))
    placement = dataset.items[0].placement
    assert (placement.resized, placement.slack) == ((97, 64), (33, 0))
    for batch in dataset.plan(0, 1, 0):
        (sample,) = batch.items
        assert sample.original_size == (100, 151)
        assert sample.target_size == (64, 64)
        assert sample.crop == (16, 0)
        assert sample.crop_top_left == ((0, 17) if sample.flip else (0, 16))


def with_classes(tmp_path: Path, count: int, repeats: int = 1) -> Dataset:
    for index in range(6):
        write(tmp_path, f"pictures/{index}.png", noise(*SIZES[index % 2], seed=index))
    for index in range(count):
        write(tmp_path, f"classes/{repeats}_person/{index}.png", noise(*SIZES[index % 3], seed=100 + index))
    return scan(config(tmp_path / "pictures", repeats=3, regularisation_folder=str(tmp_path / "classes")))


@pytest.mark.parametrize(("count", "repeats"), [(1, 1), (4, 1), (4, 2), (18, 1), (31, 1), (31, 3)])
def test_regularisation_pictures_balance_training_pictures(tmp_path: Path, count: int, repeats: int) -> None:
    dataset = with_classes(tmp_path, count, repeats)
    seen: Counter[str] = Counter()
    lengths = set()
    for epoch in range(12):
        batches = dataset.plan(epoch, 4, seed=2)
        samples = [sample for batch in batches for sample in batch.items]
        assert (
            sum(sample.is_regularisation for sample in samples) == sum(not s.is_regularisation for s in samples) == 18
        )
        classes = Counter(sample.key for sample in samples if sample.is_regularisation)
        seen.update(classes)
        lengths.add(len(batches))
        # Two uses of an image in an epoch are told apart, so their captions and crops differ.
        assert len({(sample.key, sample.repeat) for sample in samples}) == 36
    assert lengths == {dataset.batches_per_epoch(4)}
    assert len(seen) == count
    assert max(seen.values()) - min(seen.values()) <= max(2, 12 * 18 / count * 0.35)


@pytest.mark.parametrize("wanted", [1, 7, 18, 100, 101])
def test_regularisation_quotas_add_up_and_follow_the_pools(wanted: int) -> None:
    pools = {(64, 64): 10, (80, 48): 5, (48, 80): 1}
    quotas = regularisation_quotas(pools, wanted)
    assert sum(quotas.values()) == wanted
    assert all(abs(quotas.get(bucket, 0) - wanted * count / 16) < 1 for bucket, count in pools.items())


def test_draws_are_even_and_named_streams_are_independent() -> None:
    assert Draws("a", 1).uniform() == Draws("a", 1).uniform() != Draws("a", 2).uniform()
    assert Draws("a", 11).uniform() != Draws("a1", 1).uniform()
    orders = Counter(tuple(Draws("order", number).shuffled([1, 2, 3])) for number in range(6000))
    assert len(orders) == 6 and all(850 < count < 1150 for count in orders.values())
    assert {Draws("below", number).below(3) for number in range(50)} == {0, 1, 2}


def test_validation_uses_the_held_out_pictures_without_chance(tmp_path: Path) -> None:
    dataset = scan(config(folder(tmp_path), validation_fraction=0.4, **VARIED))
    assert len(dataset.held_out) == 5 and len(dataset.items) == 7
    batches = dataset.validation_plan(2)
    samples = [sample for batch in batches for sample in batch.items]
    assert sorted(sample.key for sample in samples) == sorted(item.key for item in dataset.held_out)
    assert all(sample.caption == sample.item.plain_caption and not sample.flip for sample in samples)
    assert all(sample.crop == sample.item.placement.centre and sample.color_seed is None for sample in samples)
    trained = {sample.key for batch in dataset.plan(0, 2, 0) for sample in batch.items}
    assert not trained & {sample.key for sample in samples}


def test_captions_to_encode_once(tmp_path: Path) -> None:
    root = folder(tmp_path)
    fixed = scan(config(root, trigger="t", validation_fraction=0.3))
    assert not fixed.captions_vary
    assert sorted(fixed.all_captions()) == ["t, 1boy, blue, cap, sea", "t, 1girl, red, hat, tree"]
    dropped = scan(config(root, caption_dropout=0.5))
    assert not dropped.captions_vary and "" in dropped.all_captions()
    used = {sample.caption for epoch in range(4) for batch in dropped.plan(epoch, 2, 0) for sample in batch.items}
    assert used == set(dropped.all_captions())
    assert scan(config(root, shuffle_tags=True)).captions_vary


def test_batches_are_in_random_order_across_buckets(varied: Dataset) -> None:
    buckets = [batch.bucket for batch in varied.plan(0, 1, 0)]
    assert buckets != sorted(buckets)
    assert replace(varied).plan(0, 1, 0) == varied.plan(0, 1, 0)
