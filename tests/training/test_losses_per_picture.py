"""Loss per image corrected for its noise level."""

from __future__ import annotations

import json
import random

from adapter_lab.training.objective.loss_statistics import ENOUGH_VISITS, LossStatistics


def simulate(statistics: LossStatistics, visits: int, seed: int = 0) -> None:
    """Ten images whose loss depends strongly on the timestep; nine get easier with time, `stubborn` does not."""
    rng = random.Random(seed)
    for visit in range(visits):
        for number in range(10):
            timestep = rng.randrange(1000)
            level_loss = 0.02 + 0.98 * (1 - timestep / 1000) ** 4
            progress = 1.0 if number == 3 else 1 - 0.5 * visit / visits
            key = "stubborn" if number == 3 else f"picture{number}"
            statistics.add(key, timestep, level_loss * progress * rng.uniform(0.9, 1.1))


def test_a_picture_that_never_learns_is_named_first_although_timesteps_differ():
    statistics = LossStatistics()
    simulate(statistics, 40)
    ranking = statistics.ranking()
    assert ranking[0].key == "stubborn"
    assert ranking[0].not_learned
    assert ranking[0].recent > 1.4
    assert not any(picture.not_learned for picture in ranking[1:])
    assert all(picture.visits == 40 for picture in ranking)


def test_pictures_seen_too_rarely_are_not_judged():
    statistics = LossStatistics()
    simulate(statistics, 20)
    for _ in range(ENOUGH_VISITS - 1):
        statistics.add("new", 500, 100.0)
    assert statistics.ranking()[-1].key == "new"
    assert not statistics.ranking()[-1].not_learned


def test_statistics_go_on_exactly_after_a_restart():
    whole, half = LossStatistics(), LossStatistics()
    simulate(whole, 6, seed=1)
    simulate(whole, 6, seed=2)
    simulate(half, 6, seed=1)
    resumed = LossStatistics()
    resumed.load_state_dict(json.loads(json.dumps(half.state_dict())))
    simulate(resumed, 6, seed=2)
    assert resumed.state_dict() == whole.state_dict()
