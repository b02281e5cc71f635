"""The toy study's plan."""

from __future__ import annotations

import pytest

from adapter_lab.demo.study import SMALL, demo_study, make_demo_study
from adapter_lab.demo.toy_scores import toy_scorer
from adapter_lab.errors import AdapterLabError
from adapter_lab.study.planning.plan import plan
from adapter_lab.study.running.scoring import open_scorers
from adapter_lab.study.spec import file as study_file


@pytest.mark.parametrize(("small", "trainings"), [(False, 33), (True, 3)])
def test_the_toy_study_is_a_valid_plan_of_equal_minutes(tmp_path, small, trainings):
    file = make_demo_study(tmp_path / "toy", small)
    study = study_file.load(file)
    assert study == demo_study((tmp_path / "toy").resolve(), small)
    runs = plan(study, tmp_path / "toy")
    assert len({run.name for run in runs}) == trainings
    assert len({run.config.run.minutes for run in runs}) == 1
    assert {run.config.save.every_minutes for run in runs} == {study.budget.amount / study.budget.points}
    [scorer] = open_scorers(study, {"toy": toy_scorer})
    assert scorer.prompts(study)
    if small:
        assert {run.variant.name for run in runs} == set(SMALL)


def test_another_study_is_not_overwritten(tmp_path):
    make_demo_study(tmp_path, small=True)
    with pytest.raises(AdapterLabError, match="is there already"):
        make_demo_study(tmp_path)
