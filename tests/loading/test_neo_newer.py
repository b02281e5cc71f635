"""Neo 2.29: patches on the fly that others find by their file's path, and strengths that change by step."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.random_adapter import random_tensors
from tests.loading.forge_ui import ForgeUI, save
from tests.loading.standins import importable

KEY, MODULE, SHAPE = "diffusion_model.proj.weight", "lora_unet_proj", (24, 8)
SCHEDULE = [(1.0, 0.0), (0.2, 0.5)]


class Clock:
    """The sampling step."""

    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def newer() -> Iterator[Any]:
    with importable("neo"), importable("neo_newer"):
        module = importlib.import_module("newer_patcher")
        module.install()
        yield module


@pytest.fixture
def ui(newer: Any, tmp_path: Path) -> Iterator[ForgeUI]:
    started = ForgeUI("neo", tmp_path)
    torch.manual_seed(1)
    for algorithm in ("dora", "diag-oft", "lokr"):
        save(tmp_path / f"{algorithm}.safetensors", {MODULE: random_tensors(algorithm, SHAPE)})
    yield started
    started.host.remove_loader()


@pytest.mark.parametrize("algorithm", ["dora", "diag-oft", "lokr"])
def test_a_schedule_sets_the_strength_of_our_patches_by_step_and_the_report_says_so(
    ui: ForgeUI, newer: Any, algorithm: str
) -> None:
    stored, clock, used = torch.randn(SHAPE), Clock(), []
    ui.loader.ledger._step = clock
    model = ui.load({KEY: stored})
    ui.on_the_fly(True)
    ui.generate((algorithm, 0.0))  # as which Neo reads `<lora:name:[1@0,0.2@0.5]>`
    schedules = {str(ui.folder / f"{algorithm}.safetensors"): SCHEDULE}
    for clock.now in range(4):
        newer.adjust_lora(model.forge_objects.unet, schedules, clock.now / 4)
        used.append(ui.computed(torch.float32)[KEY])
    (report,) = ui.loader.reports()
    assert report.summary().endswith("1 of 1 modules, strength 1, 0.6 from step 1, 0.2 from step 2")
    ui.on_the_fly(False)
    ui.load({KEY: stored}, "merged")
    for weight, strength in zip(used, (1.0, 0.6, 0.2, 0.2)):
        assert torch.allclose(weight, ui.generate((algorithm, strength))[KEY], atol=1e-6)


def test_other_strengths_of_zero_change_nothing(ui: ForgeUI) -> None:
    stored = torch.randn(SHAPE)
    model = ui.load({KEY: stored})
    ui.on_the_fly(True)
    ui.generate(("dora", 0.0))
    assert torch.equal(ui.computed(torch.float32)[KEY], stored)
    ui.on_the_fly(False)
    ui.generate(("lokr", 0.0))
    assert not model.forge_objects.unet.patches and torch.equal(model.weights()[KEY], stored)


@pytest.mark.parametrize("on_the_fly", [True, False])
def test_patches_that_something_takes_out_are_missed(ui: ForgeUI, on_the_fly: bool) -> None:
    model = ui.load({KEY: torch.zeros(SHAPE)})
    ui.on_the_fly(on_the_fly)
    ui.generate(("dora", 0.5))
    ui.computed(torch.float32)
    assert ui.loader.reports()[0].summary().endswith("1 of 1 modules")
    ui.activate(("dora", 0.6))
    unet = model.forge_objects.unet
    unet.patches, unet.weight_wrapper_patches = {}, {}
    ui.use_model()
    (report,) = ui.loader.reports()
    assert report.summary().endswith("0 of 1 modules") and "taken out" in str(report.warning())
