"""Learning-rate schedules: the numbers of transformers, warm-up as a share of any budget, what excludes what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_optimizer.lr_scheduler.rex import REXScheduler
from transformers import optimization

from adapter_lab.config import SCHEDULES, OptimizerConfig, RunConfig, TrainConfig
from adapter_lab.runs.budget import RunBudget
from adapter_lab.training.optim.schedules import schedule_factor
from adapter_lab.validation import problems

STEPS, WARM_UP, LR = 200, 30, 1e-3

# Our settings -> transformers' scheduler of the same name and its arguments.
THEIRS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "constant": ({}, "get_constant_schedule_with_warmup", {}),
    "linear": ({}, "get_linear_schedule_with_warmup", {}),
    "cosine": ({}, "get_cosine_schedule_with_warmup", {}),
    "cosine with minimum": (
        {"schedule": "cosine", "min_lr_ratio": 0.1},
        "get_cosine_with_min_lr_schedule_with_warmup",
        {"min_lr_rate": 0.1},
    ),
    "cosine-restarts": ({"restarts": 3}, "get_cosine_with_hard_restarts_schedule_with_warmup", {"num_cycles": 3}),
    "polynomial": (
        {"power": 2.0, "min_lr_ratio": 0.02},
        "get_polynomial_decay_schedule_with_warmup",
        {"power": 2.0, "lr_end": 0.02 * LR},
    ),
    "inverse-sqrt": ({}, "get_inverse_sqrt_schedule", {}),
    "inverse-sqrt with a time scale": (
        {"schedule": "inverse-sqrt", "timescale": 50},
        "get_inverse_sqrt_schedule",
        {"timescale": 50},
    ),
}


def their_rates(name: str, warm_up: int, arguments: dict[str, Any]) -> list[float]:
    """The rates of every step that transformers' scheduler gives an optimiser of rate LR."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    timed = {} if "constant" in name or "inverse" in name else {"num_training_steps": STEPS}
    scheduler = getattr(optimization, name)(optimizer, num_warmup_steps=warm_up, **timed, **arguments)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warm_up", [0, WARM_UP])
@pytest.mark.parametrize("case", THEIRS)
def test_schedules_are_those_of_transformers(case: str, warm_up: int) -> None:
    ours, name, arguments = THEIRS[case]
    config = OptimizerConfig(**{"schedule": case, "warmup_steps": warm_up, **ours})
    rates = [LR * schedule_factor(config, step, step / STEPS, STEPS) for step in range(STEPS)]
    theirs = their_rates(name, warm_up, arguments)
    assert rates[warm_up:] == pytest.approx(theirs[warm_up:], rel=1e-9, abs=1e-12)
    # Theirs begins at 0, which wastes a step; ours is one step ahead.
    assert rates[: max(0, warm_up - 1)] == pytest.approx(theirs[1:warm_up])


@pytest.mark.parametrize("lowest", [0.0, 0.1])
def test_rex_is_that_of_pytorch_optimizer(lowest: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = REXScheduler(optimizer, STEPS, max_lr=LR, min_lr=lowest * LR)
    config = OptimizerConfig(schedule="rex", min_lr_ratio=lowest)
    for step in range(STEPS):
        theirs.step_t = step
        ours = LR * schedule_factor(config, step, step / STEPS, STEPS)
        assert ours == pytest.approx(theirs.get_linear_lr(), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("share", [0.1, 0.15, 0.29, 1.0])
def test_warm_up_as_a_share_is_the_same_number_of_steps(schedule: str, share: float) -> None:
    by_share = OptimizerConfig(schedule=schedule, warmup_ratio=share)
    by_steps = OptimizerConfig(schedule=schedule, warmup_steps=round(100 * share))
    for step in range(100):
        expected = schedule_factor(by_steps, step, step / 100, 100)
        assert schedule_factor(by_share, step, step / 100, 100) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("limits", [{"steps": 60}, {"epochs": 6}, {"minutes": 2.0}, {"minutes": 2.0, "steps": 1000}])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_follows_every_budget(schedule: str, limits: dict[str, Any]) -> None:
    """60 steps of 2 seconds, whatever of the three ends the run, have the same rates."""
    config = OptimizerConfig(schedule=schedule, warmup_ratio=0.1, min_lr_ratio=0.0, power=2.0, restarts=2)
    budget = RunBudget.of(RunConfig(**limits), steps_per_epoch=10)
    for step in range(60):
        assert not budget.ended(step, 2.0 * step)
        factor = schedule_factor(config, step, budget.progress(step, 2.0 * step), budget.total_steps)
        if step == 0 and limits == {"minutes": 2.0}:
            assert 0 < factor < 1 / 6  # its pace is not known yet
        elif step or "minutes" not in limits:
            assert factor == pytest.approx(schedule_factor(config, step, step / 60, 60), abs=1e-9)


def test_rates_never_leave_the_range_however_uneven_the_pace() -> None:
    config = OptimizerConfig(schedule="cosine", warmup_ratio=0.2, min_lr_ratio=0.1)
    seconds = 0.0
    for step in range(50):
        factor = schedule_factor(config, step, min(1.0, seconds / 60), 0)
        assert 0 < factor <= 1
        seconds += 30.0 if step == 0 else 0.7


def test_two_lengths_of_one_warm_up_are_refused() -> None:
    config = TrainConfig()
    config.optimizer.warmup_steps, config.optimizer.warmup_ratio = 10, 0.1
    assert [p.setting for p in problems(config, complete=False)] == ["optimizer.warmup_ratio"]


@pytest.mark.parametrize(
    ("setting", "value"), [("power", 2.0), ("min_lr_ratio", 0.1), ("timescale", 5), ("restarts", 2)]
)
def test_a_setting_of_another_schedule_is_refused_by_name(setting: str, value: float) -> None:
    config = TrainConfig()
    setattr(config.optimizer, setting, value)
    (found,) = problems(config, complete=False)
    assert found.setting == f"optimizer.{setting}"
    assert "optimizer.schedule" in found.message
