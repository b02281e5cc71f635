"""A run that can learn next to nothing within its budget is said to before it starts, and one that can is not."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from adapter_lab.config import ALGORITHMS, OPTIMIZERS, TrainConfig
from adapter_lab.presets import STUDY, preset, preset_table
from adapter_lab.prospects import STARTS, USEFUL, fitted, prospects, steps_until
from adapter_lab.validation import advice
from tests.support.settings import set_options

HELD = ("optimizer.growth_rate=1.01", "optimizer.d0=1e-6")


def config_of(*changes: str) -> TrainConfig:
    return set_options(TrainConfig(), changes)


@pytest.mark.parametrize("steps", [8, 60, 200, 300, 1000, 4999, 5000, 8000, 100_000])
def test_with_the_defaults_d_may_reach_what_adapters_need_within_a_tenth_of_a_run_of_any_length(steps: int) -> None:
    used = fitted(config_of(), steps)
    assert steps_until(used.d0, used.growth_rate or math.inf) <= steps / 10
    assert prospects(config_of(f"run.steps={steps}")) == []


def test_runs_of_thousands_of_steps_are_not_held_back_and_the_study_s_recipe_and_whole_weights_stay() -> None:
    for steps in (5000, 8000, 10**6):
        assert fitted(config_of(), steps) == fitted(config_of(), 500)
    study = preset(STUDY).optimizer
    assert (study.growth_rate, study.d0, study.d_coef) == (1.01, 1e-6, 0.5)
    assert all(fitted(config_of("network.algo=full"), steps).d0 == study.d0 for steps in (200, 8000))


def test_shorter_runs_begin_more_boldly_and_a_budget_of_minutes_may_be_short() -> None:
    assert [start.below for start in STARTS] == sorted(start.below for start in STARTS)
    for faster, slower in pairwise(STARTS):
        assert (faster.d0, faster.growth, faster.d_coef) > (slower.d0, slower.growth, slower.d_coef)
    assert STARTS[-1].below == math.inf
    assert fitted(config_of(), 0) == fitted(config_of(), 4999)
    assert fitted(config_of("optimizer.name=prodigy-plus-schedule-free"), 200).d_coef == 1
    assert fitted(config_of("network.algo=lokr"), 200).d_coef > fitted(config_of("network.algo=lora"), 200).d_coef


@pytest.mark.parametrize("steps", [8, 200, 5000, 0])
def test_numbers_that_are_set_are_used_whatever_the_budget(steps: int) -> None:
    for text, number in (("1.01", 1.01), ("0", 0.0), ("2", 2.0)):
        assert fitted(config_of(f"optimizer.growth_rate={text}"), steps).growth_rate == number
    assert fitted(config_of("optimizer.d0=1e-6"), steps).d0 == 1e-6


@pytest.mark.parametrize(("steps", "reached"), [(60, "2e-06"), (200, "7e-06"), (300, "2e-05"), (450, "9e-05")])
def test_what_the_limit_allows_is_computed(steps: int, reached: str) -> None:
    assert f"{1e-6 * 1.01**steps:.0e}" == reached
    (sentence,) = prospects(config_of(*HELD, f"run.steps={steps}"))
    assert f"about {reached} at most in {steps} steps (1e-06 x 1.01^{steps})" in sentence
    assert "next to nothing is learned. Set optimizer.growth_rate to auto" in sentence
    assert ("or train for 930 steps or more" in sentence) == (steps >= 200)


def test_the_sentence_changes_with_the_length_and_its_remedies_mend() -> None:
    (sentence,) = prospects(config_of(*HELD, "run.steps=600"))
    assert "only at step 463 of 600: most of the run learns little" in sentence
    assert prospects(config_of(*HELD, "run.steps=926")) == []
    assert prospects(config_of("optimizer.growth_rate=auto", "optimizer.d0=1e-6", "run.steps=300")) == []


def test_the_last_step_of_a_held_estimate_is_where_prodigy_has_it() -> None:
    # d0 grows from its first step on: after n steps it is at most d0 x growth^n.
    assert 1e-6 * 1.01 ** steps_until(1e-6, 1.01) >= USEFUL > 1e-6 * 1.01 ** (steps_until(1e-6, 1.01) - 1)
    assert (steps_until(1e-6, math.inf), steps_until(1e-6, 1.0), steps_until(1e-3, 1.0)) == (0, -1, 0)


def test_epochs_count_once_the_pictures_are_known() -> None:
    config = config_of(*HELD, "run.epochs=5")
    assert prospects(config) == [] and advice(config) == []
    assert "in 200 steps" in prospects(config, steps_per_epoch=40)[0]
    assert "in 200 steps" in advice(config, steps_per_epoch=40)[0]


POINTLESS = {
    "held": ([*HELD, "run.steps=200"], "optimizer.growth_rate 1.01 lets"),
    "frozen": (["optimizer.growth_rate=1", "optimizer.d0=1e-6", "run.steps=9000"], "keeps Prodigy's estimate d at its"),
    "d0": (["optimizer.growth_rate=0", "optimizer.d0=1e-9", "run.steps=200"], "optimizer.d0 is 1e-09"),
    "d_coef": (["optimizer.d_coef=0.001", "run.steps=1000"], "optimizer.d_coef is 0.001"),
    "prodigy's rate": (
        ["optimizer.lr=1e-4", "run.steps=1000"],
        "learns 10,000 times too slowly. Set optimizer.lr to 1",
    ),
    "a rate found twice": (
        ["network.lora_plus_ratio=16", "run.steps=300"],
        "network.lora_plus_ratio is 16, but prodigy",
    ),
    "another's rate": (["optimizer.name=adamw", "optimizer.lr=1e-7", "run.steps=1000"], "optimizer.lr 1e-07 moves no"),
    "warm-up": (
        ["optimizer.warmup_steps=500", "run.steps=300"],
        "optimizer.warmup_steps 500 is not below the run's 300",
    ),
    "warm-up's share": (["optimizer.warmup_ratio=1", "run.minutes=5"], "optimizer.warmup_ratio is 1"),
    "restarts": (
        ["optimizer.name=adamw", "optimizer.schedule=cosine-restarts", "optimizer.restarts=200", "run.steps=300"],
        "optimizer.restarts 200 leaves each cycle 1.5 of the run's 300 steps",
    ),
    "no rank rests": (
        ["network.algo=t-lora", "network.dim=8", "network.min_rank=8", "run.steps=300"],
        "network.min_rank is 8, not below network.dim 8: no rank ever rests",
    ),
    "tags": (["dataset.tag_dropout=1", "run.steps=300"], "dataset.tag_dropout is 1, so of captions only"),
    "clipping": (["optimizer.clip_grad_norm=1e-30", "run.steps=300"], "optimizer.clip_grad_norm is 1e-30, to which"),
    "gamma": (["loss.min_snr_gamma=1e-300", "run.steps=300"], "loss.min_snr_gamma is 1e-300, which weighs"),
    "captions": (["dataset.caption_dropout=1", "run.steps=300"], "dataset.caption_dropout is 1, so no caption"),
    "norm": (["network.max_norm=1e-30", "run.steps=300"], "network.max_norm is 1e-30"),
    "a tiny rate": (["optimizer.lr=1e-200", "run.steps=1000"], "learns 1e+200 times too slowly"),
    "saves": (["save.every_steps=500", "run.steps=300"], "save.every_steps 500 is above the run's 300 steps: only the"),
    "saves by time": (["save.every_minutes=20", "run.minutes=5"], "save.every_minutes 20 is above the run's 5 minutes"),
    "saves by epochs": (["save.every_epochs=9", "run.epochs=5"], "save.every_epochs 9 is above the run's 5 epochs"),
}


@pytest.mark.parametrize("name", POINTLESS)
def test_settings_that_make_a_run_pointless_are_named_before_it_starts(name: str) -> None:
    changes, words = POINTLESS[name]
    (sentence,) = prospects(config_of(*changes))
    assert words in sentence
    assert sentence in advice(config_of(*changes))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_nothing_is_said_of_the_defaults_of_any_optimiser_and_type(optimizer: str, algo: str) -> None:
    assert prospects(config_of(f"optimizer.name={optimizer}", f"network.algo={algo}", "run.steps=300")) == []


def test_nothing_is_said_of_any_preset() -> None:
    for name in preset_table():
        config = preset(name)
        if not config.run.minutes:
            config.run.steps = 1000
        assert prospects(config) == [], name
