"""A run whose estimate of the rate was held by its limit says so while it goes on and at its end; read from its log."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from adapter_lab.runs.findings import findings
from adapter_lab.runs.state import RunState


def run_of(estimates: Iterable[float], total: int, asked: float = 1e-3) -> RunState:
    """A run of `total` steps as far as its log goes, with Prodigy's d at every step."""
    state = RunState()
    rates = [{"unet": {"lr": d, "d": d, "d_hat": asked}} for d in estimates]
    steps = [{"event": "step", "step": i + 1, "loss": 0.1, "rates": entry} for i, entry in enumerate(rates)]
    state.feed([{"event": "started", "time": 1.0}, {"event": "training", "total_steps": total}, *steps])
    return state


def held(steps: int, growth: float = 1.01, d0: float = 1e-6) -> list[float]:
    return [d0 * growth**step for step in range(steps)]


@pytest.mark.parametrize("ended", [False, True])
def test_an_estimate_held_by_its_limit_is_said_with_the_limit_and_the_remedy(ended: bool) -> None:
    (sentence,) = findings(run_of(held(200), 200), ended)
    assert f"d for unet {'was' if ended else 'is'} held by its limit, 1.01 per step: it is about 7e-06 at" in sentence
    assert "where the gradients ask for 1.0e-03" in sentence
    assert "Start a new run with optimizer.growth_rate auto, or resume this one with run.steps 930 or more." in sentence


@pytest.mark.parametrize("done", [8, 100])
def test_it_is_said_as_soon_as_the_steps_show_it(done: int) -> None:
    assert findings(run_of(held(done), 300)) != []
    assert findings(run_of(held(done), 8000)) == []  # where the limit is made for the length, all is well


def test_an_estimate_that_was_held_for_most_of_the_run_is_said_at_its_end_too() -> None:
    (sentence,) = findings(run_of(held(600), 600), ended=True)
    assert "it reached 0.0001, about what adapters need, only at step 463 of 600" in sentence
    assert sentence.endswith("Start a new run with optimizer.growth_rate auto.")
    assert findings(run_of(held(2000), 2000), ended=True) == []


def test_an_estimate_that_grows_by_itself_or_began_high_enough_is_not_held() -> None:
    itself = [1e-6 * 1.1 ** (step + 0.3 * (step % 2)) for step in range(40)]
    assert findings(run_of(itself, 60), ended=True) == []
    assert findings(run_of([1e-4] * 300, 300), ended=True) == []


def test_an_estimate_that_never_left_its_start_is_said_at_the_end_of_a_short_run() -> None:
    assert findings(run_of([1e-6] * 60, 60)) == []  # it may still
    (sentence,) = findings(run_of([1e-6] * 60, 60), ended=True)
    assert "d for unet never left its start 1.0e-06 in 60 steps" in sentence
    assert "start a new run with optimizer.d0 0.0001 or a larger optimizer.d_coef" in sentence


def test_a_run_without_an_estimate_says_nothing() -> None:
    state = RunState()
    state.feed([{"event": "step", "step": i + 1, "rates": {"unet": {"lr": 1e-4}}} for i in range(300)])
    assert findings(state, ended=True) == []
