"""Other extensions between us and the weights: their strengths are our files' too, and what they take away is said."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from tests.loading.forge_ui import ForgeUI, difference, expected, write_adapter
from tests.loading.standins.block_weights import BlockWeights, Ratio, block_weights
from tests.loading.standins.step_weights import step_weights
from tests.loading.web_uis import opened

OURS = ("lokr", "dora", "diag-oft")


@pytest.fixture(params=["classic", "forge"])
def ui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForgeUI]:
    with opened(request.param, tmp_path) as started:
        yield started


@pytest.fixture
def a1111(tmp_path: Path) -> Iterator[ForgeUI]:
    with opened("a1111", tmp_path) as started:
        started.shared.state = SimpleNamespace(sampling_step=0)
        yield started


@pytest.fixture
def extension(ui: ForgeUI) -> Iterator[BlockWeights]:
    with block_weights(ui.name) as found:
        yield found


def by_block(name: str) -> float:
    """Strengths by block, told by a weight's name: text encoders, two input blocks, and none elsewhere."""
    blocks = {"encoder": 0.5, "input_blocks_1_": 0.25, "output_blocks_3_": 1.0}
    return next((strength for block, strength in blocks.items() if block in name), 0.0)


def wanted(base: Path, file: Path, ratio: Ratio, te: float = 1.0, unet: float = 1.0) -> dict[str, Tensor]:
    """The weights with a file at strengths by block."""
    cached: dict[float, dict[str, Tensor]] = {}
    found = {}
    for key in expected(base, "sd15", (file, 1.0)):
        is_unet = key.startswith("diffusion_model.")
        strength = (unet if is_unet else te) * ratio(key.replace(".", "_"))
        found[key] = cached.setdefault(strength, expected(base, "sd15", (file, strength)))[key]
    return found


def written(ui: ForgeUI, base: Path) -> Path:
    ui.load_checkpoint(base, "sd15")
    return write_adapter(ui.folder / "mine.safetensors", base, OURS)


def said(ui: ForgeUI) -> str:
    (report,) = ui.loader.reports()
    return report.summary()


def objects(ui: ForgeUI) -> Any:
    return ui.models.model_data.sd_model.forge_objects_after_applying_lora


def test_strengths_by_block_are_followed_and_said(ui: ForgeUI, extension: BlockWeights, bases: dict[str, Path]) -> None:
    file = written(ui, bases["sd15"])
    ui.activate(("mine", 0.8))
    extension.weigh(objects(ui), by_block, 0.8)
    assert difference(ui.use_model(), wanted(bases["sd15"], file, by_block, 0.8, 0.8)) < 1e-6
    assert said(ui).endswith("modules, strength 0 to 0.8")
    (report,) = ui.loader.reports()
    assert report.complete and f" {report.total} of " not in said(ui)


def test_strengths_by_step_are_followed_and_said_and_nothing_is_read_again(
    ui: ForgeUI, extension: BlockWeights, bases: dict[str, Path]
) -> None:
    file = written(ui, bases["sd15"])
    ui.shared.state = SimpleNamespace(sampling_step=0)
    ui.generate("mine")
    for step, strength in ((3, 0.4), (6, 0.0)):
        ui.shared.state.sampling_step = step
        extension.weigh_now(objects(ui), lambda name: 1.0, strength)
        found = ui.models.model_data.sd_model.weights()
        assert difference(found, wanted(bases["sd15"], file, lambda name: 1.0, 1.0, strength)) < 1e-6
    assert said(ui).endswith("modules, strength 1, 0.4 from step 3, 0 from step 6")
    assert ui.loader.cache.get(str(file)).loads == 1


def test_patches_that_an_extension_drops_are_missed_and_said(ui: ForgeUI, bases: dict[str, Path]) -> None:
    written(ui, bases["sd15"])
    before = ui.generate()
    ui.activate("mine")
    stranger = BlockWeights(ui.name)  # it is not the one we know, and keeps three types only
    stranger.weigh(objects(ui), lambda name: 1.0, 1.0)
    assert difference(ui.use_model(), before) == 0.0
    (report,) = ui.loader.finish()
    assert report.summary().endswith(f" 0 of {report.total} modules")
    assert f"The patches of {report.total} modules were taken out" in str(report.warning())
    ui.generate()
    assert difference(ui.generate("mine"), before) > 1e-3
    assert said(ui).endswith(f" {report.total} of {report.total} modules")


def test_the_extension_is_as_it_was_when_we_are_gone(ui: ForgeUI, extension: BlockWeights) -> None:
    ui.activate()
    assert "adapter-lab" in extension.script.LORAS
    ui.host.remove_loader()
    assert extension.script.LORAS == ["lora", "loha", "lokr"]


def test_a1111_strengths_by_block_are_followed_and_said(a1111: ForgeUI, bases: dict[str, Path]) -> None:
    file = written(a1111, bases["sd15"])
    a1111.activate(("mine", 0.8))
    BlockWeights("a1111").weigh_records(a1111.networks.loaded_networks, by_block, 0.8, 0.8)
    a1111.host.settle()
    assert difference(a1111.use_model(), wanted(bases["sd15"], file, by_block, 0.8, 0.8)) < 1e-6
    assert said(a1111).endswith("modules, strength 0 to 0.8")
    plain = a1111.generate(("mine", 0.8))
    assert difference(plain, expected(bases["sd15"], "sd15", (file, 0.8))) < 1e-6


def test_a1111_strengths_are_those_of_its_records_at_every_step(a1111: ForgeUI, bases: dict[str, Path]) -> None:
    file = written(a1111, bases["sd15"])
    state = a1111.shared.state
    with step_weights(importlib.import_module("network"), lambda: int(state.sampling_step)) as strengths:
        for name, course in {"mine": lambda step: 0.6, "mine again": lambda step: 1.0 if step < 4 else 0.2}.items():
            strengths["mine"] = course
            a1111.activate("mine")  # at strength 1, whatever the tag says
            a1111.host.settle()
            for state.sampling_step in (0, 4):
                strength = course(state.sampling_step)
                assert difference(a1111.use_model(), expected(bases["sd15"], "sd15", (file, strength))) < 1e-6, name
            assert said(a1111).endswith("strength 0.6" if name == "mine" else "strength 1, 0.2 from step 4")
            state.sampling_step = 0
            a1111.loader.reports()[0].patched.begin_picture()  # type: ignore[union-attr]
    assert a1111.loader.cache.get(str(file)).loads == 1


def test_a1111_a_file_that_an_extension_unloads_is_missed_and_said(a1111: ForgeUI, bases: dict[str, Path]) -> None:
    written(a1111, bases["sd15"])
    before = a1111.generate()
    a1111.activate("mine")
    a1111.networks.loaded_networks.clear()
    a1111.host.settle()
    assert difference(a1111.use_model(), before) == 0.0
    (report,) = a1111.loader.finish()
    assert report.summary().endswith(f" 0 of {report.total} modules") and not report.complete


def test_a1111_layers_that_do_not_run_are_not_said_to_be_taken_away(a1111: ForgeUI, bases: dict[str, Path]) -> None:
    written(a1111, bases["sd15"])
    a1111.activate("mine")
    a1111.host.settle()
    for layer in list(a1111.loaded.layers_seen())[3:]:  # type: ignore[attr-defined]
        a1111.networks.network_apply_weights(layer)
    (report,) = a1111.loader.finish()
    assert report.complete and report.summary().endswith(f" {report.total} of {report.total} modules")
