"""A study that an older release began goes on with the defaults it was begun with; a new one has today's."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.study.planning.plan import as_begun
from adapter_lab.study.spec.definition import Study, Variant
from adapter_lab.upgrades import FORMER


def begun_with(folder: Path, **optimizer: float) -> None:
    config = TrainConfig()
    for name, value in optimizer.items():
        setattr(config.optimizer, name, value)
    run = folder / "runs" / "lora-s1"
    run.mkdir(parents=True)
    config_file.write(config, run / "config.toml")


def test_what_the_study_leaves_open_is_as_its_trainings_have_it(tmp_path: Path) -> None:
    begun_with(tmp_path, growth_rate=1.01, d0=1e-6)
    study = Study(variants=[Variant("LoRA", {})])
    optimizer = as_begun(study, tmp_path).shared.optimizer
    assert (optimizer.growth_rate, optimizer.d0) == (1.01, 1e-6)
    assert study.shared == TrainConfig()  # the given one is left as it was


def test_what_the_study_states_stays(tmp_path: Path) -> None:
    begun_with(tmp_path, growth_rate=1.01, d0=1e-6)
    study = Study(variants=[Variant("LoRA", {})])
    study.shared.optimizer.growth_rate = 1.5
    assert as_begun(study, tmp_path).shared.optimizer.growth_rate == 1.5


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_study_of_today_has_todays_defaults(tmp_path: Path, is_begun: bool) -> None:
    if is_begun:
        begun_with(tmp_path)
    assert as_begun(Study(), tmp_path).shared == TrainConfig()
    for path, (former, _) in FORMER.items():
        section, name = path.split(".")
        assert getattr(getattr(TrainConfig(), section), name) != former
