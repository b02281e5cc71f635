"""The optimisers of pytorch-optimizer: each that is offered trains, resumes and keeps what was predicted."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from adapter_lab.config import AVERAGING, OPTIMIZERS, OWN_OPTIMIZERS, OptimizerConfig, TrainConfig
from adapter_lab.environment.locks import LOCKS
from adapter_lab.environment.status import ROOT
from adapter_lab.errors import ConfigError
from adapter_lab.library_optimizers import NAMES, REFUSED, VERSION
from adapter_lab.training.loop import train as train_run
from adapter_lab.training.optim.optimizers import OptimizerSet, build_optimizer, rate_groups
from adapter_lab.training.optim.state_size import state_bytes
from adapter_lab.validation import problems
from tests.support.training import losses_of, tiny_config

SHAPES: dict[str, list[tuple[int, ...]]] = {"unet": [(20, 6), (4, 20), (4, 6, 3, 3), (20,), ()], "te1": [(6, 5)]}
STEPS = 2


def made(name: str, seed: int = 0, args: tuple[str, ...] = ()) -> OptimizerSet:
    """The optimiser over parameters as adapters have them, one of which begins at zero and one gets no gradient."""
    draw = torch.Generator().manual_seed(seed)
    parts = {
        part: [(Parameter(torch.randn(s, generator=draw)), 1.0) for s in shapes] for part, shapes in SHAPES.items()
    }
    parts["te1"] += [(Parameter(torch.zeros(5, 3)), 1.0), (Parameter(torch.ones(2, 2)), 1.0)]
    config = OptimizerConfig(name=name, args=list(args))
    return build_optimizer(rate_groups(parts, config), config)


def train(optimizer: OptimizerSet, first: int, last: int) -> list[float]:
    """Steps towards noise around 0.5, but for the last parameter."""
    losses = []
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad()
        used = [p for p in optimizer.parameters() if p.shape != (2, 2)]
        loss = torch.stack([(p - 0.5 - 0.05 * torch.randn(p.shape)).square().mean() for p in used]).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_every_offered_optimiser_moves_and_resumes_bit_for_bit(name: str) -> None:
    whole = made(name)
    before = [p.detach().clone() for p in whole.parameters()]
    train(whole, 0, STEPS)
    stored = io.BytesIO()
    torch.save({"optimizer": whole.state_dict(), "weights": [p.detach() for p in whole.parameters()]}, stored)
    expected = train(whole, STEPS, 3 * STEPS)
    for parameter, begin in zip(whole.parameters(), before):
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, begin) == (parameter.shape == (2, 2))

    resumed = made(name, seed=1)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(resumed.parameters(), state["weights"]):
            parameter.copy_(value)
    resumed.load_state_dict(state["optimizer"])
    assert train(resumed, STEPS, 3 * STEPS) == expected
    assert all(torch.equal(left, right) for left, right in zip(resumed.parameters(), whole.parameters()))


def held(value: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(held(entry) for entry in entries)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_of_a_matrix_is_what_was_predicted(name: str) -> None:
    config = OptimizerConfig(name=name)
    parameter = Parameter(torch.randn(12, 72, generator=torch.Generator().manual_seed(0)))
    optimizer = build_optimizer(rate_groups({"unet": [(parameter, 1.0)]}, config), config)
    for step in range(3):
        parameter.grad = torch.randn(12, 72, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    kept = sum(held(state) for member in optimizer.members for state in member.state.values())
    predicted = state_bytes((12, 72), config)
    assert kept <= predicted * 1.02 + 16
    assert name in ROUGH or predicted <= kept * 1.02 + 16


# What these keep follows no sum of terms in the sides: the most is taken.
ROUGH = ("alice", "nero", "normuon", "sm3", "spam")


@pytest.mark.parametrize("name", [name for name in AVERAGING if name in NAMES])
def test_averages_are_shown_and_training_goes_on_untouched(name: str) -> None:
    undisturbed, shown = made(name), made(name)
    with shown.averaged():
        pass
    for step in range(8):
        losses = train(undisturbed, step, step + 1)
        assert train(shown, step, step + 1) == losses
        trained = [p.detach().clone() for p in shown.parameters()]
        with shown.averaged():
            averages = [p.detach().clone() for p in shown.parameters()]
        assert all(torch.equal(p, q) for p, q in zip(shown.parameters(), trained))
    assert any(not torch.equal(p, q) for p, q in zip(averages, trained))


def test_the_existing_ones_come_first_and_no_name_is_offered_and_refused() -> None:
    assert OPTIMIZERS[: len(OWN_OPTIMIZERS)] == OWN_OPTIMIZERS
    assert {"came", "ademamix", "soap", "muon", "schedulefreeadamw"} <= set(NAMES)
    assert not set(NAMES) & set(REFUSED) and len(set(OPTIMIZERS)) == len(OPTIMIZERS)


def test_the_table_is_of_the_pinned_package_and_the_page_has_every_row() -> None:
    pin = f"pytorch-optimizer=={VERSION}"
    for lock in LOCKS:
        assert pin in (ROOT / "requirements" / lock.file).read_text(encoding="utf-8")
    page = (ROOT / "docs/optimizers.md").read_text(encoding="utf-8")
    assert [name for name in (*NAMES, *REFUSED) if f"| `{name}` |" not in page] == []


def settings(name: str, *args: str, **more: Any) -> TrainConfig:
    config = TrainConfig()
    config.optimizer.name, config.optimizer.args = name, list(args)
    for key, value in more.items():
        setattr(config.optimizer, key, value)
    return config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (settings("lbfgs"), "optimizer.name is lbfgs, which cannot train adapters: "),
        (settings("cmae"), "did you mean came?"),
        (settings("came", "wieght_decay=0.1"), "came has no argument wieght_decay; did you mean weight_decay?"),
        (settings("came", "weight_decay"), "'weight_decay' is not of the form name=value"),
        (settings("came", "weight_decay=much"), "weight_decay must be a number, but is 'much'"),
        (settings("came", "weight_decay=nan"), "weight_decay must be a number"),
        (settings("came", "betas=0.9,0.99"), "betas must be 3 numbers such as 0.9,0.999,0.9999"),
        (settings("came", "ams_bound=1"), "ams_bound must be true or false"),
        (settings("came", "lr=1"), "lr is given by optimizer.lr"),
        (settings("came", "eps1=1", "eps1=2"), "eps1 is given twice"),
        (settings("adamw", "eps=1"), "optimizer.args is used by those of pytorch-optimizer only; adamw ignores it"),
        (settings("came", weight_decay=0.1), "came ignores it"),
        (settings("schedulefreeadamw", schedule="cosine"), "averages instead of decaying its rate: choose constant"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_get_a_sentence(config: TrainConfig, said: str) -> None:
    found = problems(config, complete=False)
    assert any(said in problem.message for problem in found), found
    assert all(len(problem.message) < 400 for problem in found)


def test_arguments_reach_the_optimiser_and_what_it_refuses_is_a_sentence() -> None:
    optimizer = made("came", args=("weight_decay=0.3", "betas=(0.8, 0.9, 0.95)", "ams_bound=true"))
    group = optimizer.members[0].param_groups[0]
    assert (group["weight_decay"], group["betas"], group["ams_bound"]) == (0.3, (0.8, 0.9, 0.95), True)
    with pytest.raises(ConfigError, match=r"optimizer\.args: came does not accept these values"):
        made("came", args=("weight_decay=-1",))


def test_settings_are_read_without_the_package() -> None:
    code = "import sys, adapter_lab.validation; print([m for m in ('torch', 'pytorch_optimizer') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["came", "muon", "schedulefreeadamw"])
def test_a_run_trains_with_it(name: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__steps=3, network__conv_dim=2, optimizer__name=name, optimizer__lr="auto")
    result = train_run(config)
    assert result.steps == 3 and len(losses_of(result.run_folder)) == 3
