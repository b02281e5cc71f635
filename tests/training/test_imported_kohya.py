"""What the import of other people's settings files writes is trained: two steps of each case on a tiny base."""

from __future__ import annotations

import importlib.util
import math
import warnings
from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import import_kohya
from adapter_lab.training.loop import train
from tests.support.kohya_cases import CASES
from tests.support.training import draw_pictures, events_of, losses_of, tiny_base, tiny_config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "pics", count=2)


# Those that go ways of their own; the others are as long and learn less.
ALWAYS = (
    *("adafactor_relative.toml", "full_matrix.toml", "gui_typical.json", "multires_dataset.toml", "came.toml"),
    *("opt_DAdaptAdam.toml", "opt_prodigyplus.toml", "opt_AdamWScheduleFree.toml", "vpred_debiased.toml"),
)
NAMES = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
    for name, case in CASES.items()
    if not case.refused
]


@pytest.mark.parametrize("name", NAMES)
def test_an_imported_file_trains(tmp_path: Path, name: str, pictures: Path) -> None:
    case = CASES[name]
    given, written = tmp_path / name, tmp_path / "config.toml"
    given.write_text(case.text, encoding="utf-8")
    config_file.write(import_kohya(given).config, written)
    config = config_file.load(written)
    # The file's own places and sizes are another machine's; all else is what it says.
    config.base.checkpoint = str(tiny_base(case.family, case.v_prediction))
    config.dataset.folder = str(pictures) if config.dataset.folder else ""
    for source in config.dataset.sources:
        source.folder = str(pictures)
        source.resolution = "same" if source.resolution == "same" else 128
    config.dataset.resolution = config.dataset.bucket_step = 64
    config.dataset.bucket_min = config.dataset.bucket_max = 0
    config.run.steps, config.run.epochs, config.run.batch_size = 2, 0, 1
    config.run.output_folder, config.run.runs_folder = str(tmp_path / "out"), str(tmp_path / "runs")
    config.optimizer.warmup_steps = min(1, config.optimizer.warmup_steps)
    config.precision.device, config.precision.mixed = "cpu", "fp32"
    if config.optimizer.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        config.optimizer.name = "adamw"  # bitsandbytes is for GPUs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train(config)
    assert result.steps == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses_of(result.run_folder))
    (file,) = (AdapterFile.open(path) for path in result.adapters)
    assert len(file.modules) > 10


@pytest.mark.parametrize("family", ["auto", "sdxl"])
def test_another_layer_of_sdxl_than_its_own_is_warned_of_once(tmp_path: Path, family: str) -> None:
    config = tiny_config(tmp_path, "sdxl", base__clip_skip=1, base__family=family, run__steps=1)
    result = train(config)
    warnings_ = [event["message"] for event in events_of(result.run_folder, "warning")]
    assert len([text for text in warnings_ if "base.clip_skip is 1" in text]) == 1


def test_a_weighting_without_effect_on_the_base_is_refused_before_pictures_are_encoded(tmp_path: Path) -> None:
    seen: list[str] = []
    config = tiny_config(tmp_path, "sd15", loss__v_as_epsilon=True)
    with pytest.raises(ConfigError, match="v_as_epsilon"):
        train(config, on_event=lambda event: seen.append(event["event"]))
    assert "dataset" not in seen
