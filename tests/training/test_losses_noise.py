"""Random draws of a step: reproducible, independent of batching, and distributed as configured."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from adapter_lab.config import LossConfig
from adapter_lab.training.objective.noise import draw_noise, draw_perturbation, seed_everything, seed_of
from adapter_lab.training.objective.objective import Diffusion, scaled_linear_alphas_cumprod

SCHEDULE = Diffusion(scaled_linear_alphas_cumprod(), "epsilon")


def test_seeds_do_not_depend_on_the_process():
    program = "from adapter_lab.training.objective.noise import seed_of; print(seed_of(3, 'noise', 17))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_env())
    assert int(other.stdout) == seed_of(3, "noise", 17)
    assert seed_of(1, 23) != seed_of(12, 3)


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "99"}


def test_a_draw_depends_on_seed_step_and_sample_alone():
    config = LossConfig(noise_offset=0.1, multires_noise_iterations=3)
    first = draw_noise((4, 8, 8), config, 7, 100, 2)
    torch.randn(10)
    assert torch.equal(first, draw_noise((4, 8, 8), config, 7, 100, 2))
    for other in ((8, 100, 2), (7, 101, 2), (7, 100, 3)):
        assert not torch.equal(first, draw_noise((4, 8, 8), config, *other))


def test_noise_variants_leave_timesteps_and_plain_noise_as_they_are():
    plain = draw_noise((4, 8, 8), LossConfig(), 0, 1, 0)
    offset = draw_noise((4, 8, 8), LossConfig(noise_offset=0.5), 0, 1, 0)
    shift = offset - plain
    assert torch.allclose(shift, shift[:, :1, :1].expand_as(shift), atol=1e-5)
    assert shift.abs().max() > 0.05
    assert SCHEDULE.draw(LossConfig(), 0, 1, 0) == SCHEDULE.draw(LossConfig(noise_offset=0.5), 0, 1, 0)


def test_pyramid_noise_is_smoother_and_has_unit_variance():
    def neighbour_correlation(noise: torch.Tensor) -> float:
        return (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()

    config = LossConfig(multires_noise_iterations=6, multires_noise_discount=0.8)
    plain = [draw_noise((4, 64, 64), LossConfig(), 0, step, 0) for step in range(20)]
    pyramid = [draw_noise((4, 64, 64), config, 0, step, 0) for step in range(20)]
    assert abs(sum(map(neighbour_correlation, plain)) / 20) < 0.02
    assert sum(map(neighbour_correlation, pyramid)) / 20 > 0.2
    assert all(abs(noise.std().item() - 1) < 1e-4 for noise in pyramid)


@pytest.mark.parametrize("distribution", ["uniform", "logit-normal"])
def test_timesteps_stay_in_their_range_and_reach_both_ends(distribution):
    config = LossConfig(timestep_min=300, timestep_max=303, timestep_distribution=distribution)
    drawn = {SCHEDULE.draw(config, 0, step, 0) for step in range(500)}
    assert drawn == {300, 301, 302, 303}


def test_timestep_distributions_differ_as_named():
    def middle_half(distribution: str) -> float:
        config = LossConfig(timestep_distribution=distribution)
        return sum(250 <= SCHEDULE.draw(config, 0, step, 0) < 750 for step in range(2000)) / 2000

    assert middle_half("uniform") == pytest.approx(0.5, abs=0.04)
    # P(|Z| < log 3) for a standard normal Z.
    assert middle_half("logit-normal") == pytest.approx(0.728, abs=0.04)


def test_perturbation_is_off_by_default_and_scaled_when_on():
    assert draw_perturbation((4, 64, 64), LossConfig(), 0, 0, 0) is None
    extra = draw_perturbation((4, 64, 64), LossConfig(input_perturbation=0.1), 0, 0, 0)
    assert extra is not None
    assert extra.std().item() == pytest.approx(0.1, rel=0.05)


def test_dropout_of_a_step_can_be_repeated():
    seed_everything(0, 12)
    first = torch.rand(3)
    seed_everything(0, 12)
    assert torch.equal(first, torch.rand(3))
