"""Optimisers by name: arguments, rates per part, exact resume, averaged weights."""

from __future__ import annotations

import io
import math
import sys
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy
from torch.nn import Parameter

from adapter_lab.config import OPTIMIZERS, OWN_OPTIMIZERS, OptimizerConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.presets import STUDY, preset
from adapter_lab.training.optim.ema import MovingAverage
from adapter_lab.training.optim.optimizers import OptimizerSet, build_optimizer, check_available, rate_groups
from adapter_lab.training.optim.prodigy import Prodigy as DeviceProdigy
from adapter_lab.training.optim.schedules import schedule_factor
from adapter_lab.validation import problems

AVAILABLE = [name for name in OWN_OPTIMIZERS if name != "adamw8bit"]
# Enough for the Prodigy family to leave its first, tiny estimate of the rate.
QUICK: dict[str, Any] = {"growth_rate": 0.0, "d0": 1e-3, "weight_decay": 0.0}


def parts(seed: int = 0) -> dict[str, list[tuple[Parameter, float]]]:
    """Weights of two parts: a factored matrix, a vector, a scalar and a zero matrix, as adapters have."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, list[tuple[int, ...]]] = {"unet": [(40, 36), (36,), ()], "te1": [(6, 5)]}
    made = {part: [Parameter(torch.randn(s, generator=generator)) for s in ss] for part, ss in shapes.items()}
    made["te1"].append(Parameter(torch.zeros(6, 4)))
    return {part: [(parameter, 1.0) for parameter in members] for part, members in made.items()}


def loss_of(parameters: list[Parameter], step: int) -> torch.Tensor:
    """A bowl whose gradient changes a little from step to step."""
    generator = torch.Generator().manual_seed(step)
    shifts = (1 + 0.05 * torch.randn(p.shape, generator=generator) for p in parameters)
    return torch.stack([(p - 0.5 * shift).square().mean() for p, shift in zip(parameters, shifts)]).sum()


def train(optimizer: OptimizerSet, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        optimizer.zero_grad()
        loss = loss_of(list(optimizer.parameters()), step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_optimizer_lowers_the_loss(name, capsys):
    lr = "auto" if name.startswith("prodigy") else 0.02
    optimizer = build_optimizer(rate_groups(parts(), c := OptimizerConfig(name=name, lr=lr, **QUICK)), c)
    losses = train(optimizer, 0, 800)
    assert losses[-1] < 0.6 * losses[0]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("te1_lr", ["same", 0.5])
def test_a_saved_state_goes_on_bit_for_bit(name, te1_lr):
    config = OptimizerConfig(name=name, lr=0.02 if not name.startswith("prodigy") else "auto", te1_lr=te1_lr, **QUICK)
    whole = build_optimizer(rate_groups(parts(), config), config)
    train(whole, 0, 4)
    stored = io.BytesIO()
    torch.save({"optimizer": whole.state_dict(), "weights": [p.detach() for p in whole.parameters()]}, stored)
    expected = train(whole, 4, 9)

    resumed = build_optimizer(rate_groups(parts(seed=1), config), config)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(resumed.parameters(), state["weights"]):
            parameter.copy_(value)
    resumed.load_state_dict(state["optimizer"])
    assert train(resumed, 4, 9) == expected
    for left, right in zip(resumed.parameters(), whole.parameters()):
        assert torch.equal(left, right)


PRODIGY_OPTIONS: dict[str, dict[str, Any]] = {
    "the study's": {},
    "no bias correction": {"use_bias_correction": False, "safeguard_warmup": False, "slice_p": 1},
    "coupled decay": {"decouple": False, "weight_decay": 0.1},
    "no momentum": {"betas": (0.0, 0.99)},
    "growing slowly": {"growth_rate": 1.02},
}


@pytest.mark.parametrize("options", PRODIGY_OPTIONS.values(), ids=PRODIGY_OPTIONS)
def test_prodigy_on_the_device_takes_prodigyopts_steps(options, monkeypatch):
    """Its step is plain tensor arithmetic, so it can be compared here; on a GPU it is used by default."""
    settings: dict[str, Any] = {
        "lr": 1.0,
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
        "decouple": True,
        "use_bias_correction": True,
        "safeguard_warmup": True,
        "d0": 1e-4,
        "d_coef": 0.5,
        "growth_rate": float("inf"),
        "slice_p": 10,
        **options,
    }
    monkeypatch.setattr("adapter_lab.training.optim.prodigy.CHUNK_BYTES", 400)
    # In float64, since the first estimates are differences of nearly equal weights.
    ours_parameters, theirs_parameters = (
        [Parameter(p.detach().double()) for members in parts().values() for p, _ in members] for _ in range(2)
    )
    ours = DeviceProdigy(ours_parameters, stay_on_device=True, **settings)
    theirs = Prodigy(theirs_parameters, **settings)
    unused = Parameter(torch.ones(3))
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"].append(unused)  # no gradient: left alone
    for step in range(40):
        if step == 20:  # a state of either can be loaded by the other
            state = ours.state_dict()
            ours.load_state_dict(theirs.state_dict())
            theirs.load_state_dict(state)
        for optimizer, members in ((ours, ours_parameters), (theirs, theirs_parameters)):
            optimizer.zero_grad()
            loss_of(members, step).backward()
            optimizer.step()
        assert float(ours.estimate()["d"]) == pytest.approx(theirs.param_groups[0]["d"], rel=1e-5)
        assert float(ours.estimate()["d_hat"]) == pytest.approx(theirs.param_groups[0]["d_hat"], rel=1e-5)
        for left, right in zip(ours_parameters, theirs_parameters):
            assert torch.allclose(left, right, rtol=1e-6, atol=1e-9)
    assert theirs.param_groups[0]["d"] > 2e-4 or options.get("growth_rate")
    assert torch.equal(unused, torch.ones(3))


def test_prodigy_on_the_device_waits_for_nothing(monkeypatch):
    parameters = [p for members in parts().values() for p, _ in members]
    optimizer = DeviceProdigy(parameters, stay_on_device=True, lr=1.0, weight_decay=0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(parameters, step).backward()
        if step == 1:  # the first step may wait, to make its state

            def waited(*arguments: Any) -> None:
                raise AssertionError("the host waited for a value")

            for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
                monkeypatch.setattr(torch.Tensor, name, waited)
        optimizer.step()
        optimizer.estimate()


def test_the_studys_preset_is_the_studys_prodigy():
    config = preset(STUDY).optimizer
    ours = build_optimizer(rate_groups(parts(), config), config)
    theirs_parameters = [parameter for members in parts().values() for parameter, _ in members]
    theirs = Prodigy(
        theirs_parameters,
        decouple=True,
        weight_decay=0.01,
        d_coef=0.5,
        use_bias_correction=True,
        betas=(0.9, 0.99),
        slice_p=10,
        safeguard_warmup=True,
        growth_rate=1.01,
    )
    train(ours, 0, 12)
    for step in range(12):
        theirs.zero_grad()
        loss_of(theirs_parameters, step).backward()
        theirs.step()
    for left, right in zip(ours.parameters(), theirs_parameters):
        assert torch.equal(left, right)


def test_prodigy_gives_a_part_with_its_own_rate_its_own_estimate():
    same = OptimizerConfig(**QUICK)
    assert len(build_optimizer(rate_groups(parts(), same), same).members) == 1
    own = OptimizerConfig(te1_lr=0.3, **QUICK)
    optimizer = build_optimizer(rate_groups(parts(), own), own)
    assert len(optimizer.members) == 2
    train(optimizer, 0, 50)
    rates = optimizer.rates()
    assert rates["unet"]["d"] != rates["te1"]["d"]


def test_logged_rate_is_what_prodigy_applies():
    config = OptimizerConfig(weight_decay=0.0, eps=1e-30, growth_rate=1.5, clip_grad_norm=0)
    weight = Parameter(torch.full((64,), 1e-3))
    optimizer = build_optimizer(rate_groups({"unet": [(weight, 1.0)]}, config), config)
    for step in range(30):
        rate = optimizer.rates()["unet"]["lr"]
        before = weight.detach().clone()
        weight.grad = torch.full((64,), 1.0)
        optimizer.step()
        moved = (before - weight.detach()).mean().item()
        if step == 0:
            # One gradient: momentum (1 - b1) g over sqrt(1 - b2) g, which bias correction makes g / |g|.
            assert moved == pytest.approx(rate, rel=1e-3)
        assert {"lr", "d", "d_hat"} <= optimizer.rates()["unet"].keys()
    assert optimizer.rates()["unet"]["d"] > 1e-6


def test_parameters_with_rate_zero_are_frozen():
    weights = parts()
    frozen = weights["unet"][0][0]
    weights["unet"][0] = (frozen, 0.0)
    before = frozen.detach().clone()
    config = OptimizerConfig(**QUICK)
    optimizer = build_optimizer(rate_groups(weights, config), config)
    train(optimizer, 0, 5)
    assert not frozen.requires_grad
    assert frozen.grad is None
    assert torch.equal(frozen, before)
    assert all(parameter is not frozen for parameter in optimizer.parameters())


def test_all_rates_zero_is_refused():
    with pytest.raises(ConfigError, match="lr_scale"):
        rate_groups({"unet": [(Parameter(torch.ones(2)), 0.0)]}, OptimizerConfig())


def test_missing_bitsandbytes_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = OptimizerConfig(name="adamw8bit")
    with pytest.raises(ConfigError, match=r"bitsandbytes.*choose adamw"):
        build_optimizer(rate_groups(parts(), config), config)


def test_schedule_free_average_is_used_for_saving_and_leaves_training_untouched():
    config = OptimizerConfig(name="prodigy-plus-schedule-free", **QUICK)
    undisturbed = build_optimizer(rate_groups(parts(), config), config)
    saving = build_optimizer(rate_groups(parts(), config), config)
    with saving.averaged():
        pass  # before the first step there is nothing to average
    train(undisturbed, 0, 8)
    for step in range(8):
        train(saving, step, step + 1)
        trained = [p.detach().clone() for p in saving.parameters()]
        with saving.averaged():
            averages = [p.detach().clone() for p in saving.parameters()]
        assert all(torch.equal(p, q) for p, q in zip(saving.parameters(), trained))
        assert step == 0 or any(not torch.equal(p, q) for p, q in zip(averages, trained))
    assert all(torch.equal(p, q) for p, q in zip(saving.parameters(), undisturbed.parameters()))


def test_rate_factor_scales_every_group():
    config = OptimizerConfig(name="adamw", lr=1e-3, te1_lr=1e-4)
    optimizer = build_optimizer(rate_groups(parts(), config), config)
    optimizer.set_rate_factor(0.5)
    optimizer.set_rate_factor(0.25)
    assert optimizer.rates() == {"unet": {"lr": 2.5e-4}, "te1": {"lr": 2.5e-5}}


@pytest.mark.parametrize(
    ("schedule", "restarts", "progress", "factor"),
    [
        ("constant", 1, 0.9, 1.0),
        ("linear", 1, 0.25, 0.75),
        ("linear", 1, 1.0, 0.0),
        ("cosine", 1, 0.0, 1.0),
        ("cosine", 1, 0.5, 0.5),
        ("cosine", 1, 1.0, 0.0),
        ("cosine-restarts", 4, 0.125, 0.5),
        ("cosine-restarts", 4, 0.25, 1.0),
        ("cosine-restarts", 4, 0.375, 0.5),
        ("cosine-restarts", 4, 1.0, 0.0),
    ],
)
def test_schedules(schedule, restarts, progress, factor):
    config = OptimizerConfig(schedule=schedule, restarts=restarts)
    assert schedule_factor(config, 1000, progress) == pytest.approx(factor, abs=1e-12)


def test_warmup_rises_to_the_full_rate_and_never_is_zero():
    config = OptimizerConfig(warmup_steps=4)
    assert [schedule_factor(config, step, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_moving_average_follows_and_restores_exactly():
    weight = Parameter(torch.zeros(3))
    average = MovingAverage([weight], decay=0.9)
    expected = 0.0
    for step in range(50):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.applied():
        assert weight[0].item() == pytest.approx(expected, rel=1e-5)
    assert weight[0].item() == 49.0
    assert math.isclose(expected, 49 - 9, rel_tol=0.1)
    other = MovingAverage([Parameter(torch.zeros(3))], decay=0.9)
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.values[0], average.values[0])
    assert other.updates == 50


TRIED = [name for name in OPTIMIZERS if name != "adamw8bit"]  # whose package is not everywhere


@pytest.mark.parametrize("name", TRIED)
def test_every_optimiser_takes_its_own_settings(name: str) -> None:
    check_available(OptimizerConfig(name=name))


EXTREMES: dict[str, list[Any]] = {
    "eps": [1e-30, 1e30],
    "betas": [[0.0, 0.0], [0.9, 1.0], [1.0, 1.0], [0.5]],
    "weight_decay": [0.0, 1e30],
    "d0": [1e-20, 1e30],
    "d_coef": [1e-30, 1e30],
    "growth_rate": [1.0, 1e30],
    "lr": [1e-30, 1e30],
    "slice_p": [1, 10**9],
    "args": [["eps=0"], ["betas=(2,2)"], ["weight_decay=-1"], ["nothing=1"]],
}


@pytest.mark.parametrize("setting", EXTREMES)
@pytest.mark.parametrize("name", TRIED)
def test_no_setting_of_an_optimiser_fails_but_in_a_sentence(name: str, setting: str) -> None:
    for value in EXTREMES[setting]:
        config = TrainConfig(optimizer=OptimizerConfig(name=name, **{setting: value}))
        config.dataset.folder = config.base.checkpoint = "x"
        config.run.steps = 10
        if problems(config):
            continue  # refused before, by name
        try:
            check_available(config.optimizer)
        except ConfigError as error:
            assert name in str(error) and "optimizer" in str(error)
