"""Several resolutions in one run: folders with their own, the same folder twice, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter_lab.config import DatasetConfig, SourceConfig, TrainConfig
from adapter_lab.errors import ConfigError, DatasetError
from adapter_lab.training.dataset import largest_resolution, scan
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.training.loop import train
from adapter_lab.validation import problems
from tests.support.training import draw_pictures, events_of, tiny_config


def two_sizes(folder: Path, **own: Any) -> DatasetConfig:
    """Images at 64 px, and the same ones at 128 px."""
    pictures = str(draw_pictures(folder / "pictures", 3, (160, 128)))
    sources = [SourceConfig(pictures, resolution=128, repeats=2, **own)]
    return DatasetConfig(folder=pictures, resolution=64, bucket_step=32, sources=sources, cache_latents="memory")


def test_a_folder_given_twice_is_trained_at_both_resolutions_in_batches_of_one_size(tmp_path: Path) -> None:
    dataset = scan(two_sizes(tmp_path))
    assert dataset.resolutions == [64, 128] and len({item.key for item in dataset.items}) == 6
    areas = {item.source.resolution: item.bucket[0] * item.bucket[1] for item in dataset.items}
    assert areas[64] <= 64**2 < areas[128] <= 128**2
    for batch in dataset.plan(0, 4, 0):
        assert len({sample.item.bucket for sample in batch.items}) == 1
    assert sum(len(batch) for batch in dataset.plan(0, 4, 0)) == 3 + 2 * 3
    assert not [sentence for sentence in dataset.warnings if "same image" in sentence]


def test_the_report_says_every_resolution(tmp_path: Path) -> None:
    report = scan(two_sizes(tmp_path)).report()
    assert {line.resolution for line in report.folders} == {64, 128}
    assert "at resolution 64 and 128" in report.text() and "at 128 px" in report.text()
    one = scan(DatasetConfig(folder=str(tmp_path / "pictures"), resolution=64, bucket_step=32)).report()
    assert "at resolution 64;" in one.text() and " px" not in one.text().split("Buckets")[0]


def test_limits_of_the_sides_are_a_folders_own(tmp_path: Path) -> None:
    wide = scan(two_sizes(tmp_path, bucket_min=96, bucket_max=128))
    sides = {side for item in wide.items if item.source.resolution == 128 for side in item.bucket}
    assert sides <= {96, 128}
    with pytest.raises(ConfigError, match=r"dataset\.sources\[0\]\.bucket_min 160"):
        scan(two_sizes(tmp_path, bucket_min=160))


def test_a_folder_given_twice_at_one_resolution_is_refused(tmp_path: Path) -> None:
    config = two_sizes(tmp_path)
    config.sources[0].resolution = 64
    with pytest.raises(DatasetError, match=r"dataset\.folder and as dataset\.sources\[0\]\.folder, both at 64 px"):
        scan(config)


def test_a_resolution_that_is_no_multiple_of_8_is_refused_by_name() -> None:
    config = TrainConfig()
    config.dataset.sources = [SourceConfig("pictures", resolution=500)]
    (problem,) = problems(config, complete=False)
    assert problem.setting == "dataset.sources[0].resolution" and "take 496" in problem.message


def test_a_run_of_two_resolutions_trains_both_and_is_estimated_at_the_larger(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__steps=0, run__epochs=1)
    config.dataset = two_sizes(tmp_path / "more")
    result = train(config)
    (report,) = events_of(result.run_folder, "dataset")
    assert {(line["resolution"], line["repeats"]) for line in report["report"]["folders"]} == {(64, 1), (128, 2)}
    assert result.steps == report["report"]["steps_per_epoch"] == 2 + 3
    assert largest_resolution(config.dataset, 512) == 128
    assert any("128 x 128 px" in sentence for sentence in estimate(config).assumptions)
    alone = DatasetConfig(sources=config.dataset.sources)
    assert largest_resolution(alone, 512) == 128
