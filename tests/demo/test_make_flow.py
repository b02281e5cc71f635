"""The toy base for rectified flow is made from the shipped one: only the UNet and what it says it predicts are new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adapter_lab.config import BaseConfig
from adapter_lab.demo.evaluate import character_prompts, generate
from adapter_lab.demo.make_flow import make_flow
from adapter_lab.demo.run import load_parts
from adapter_lab.demo.toy_file import LARGEST, TOY_FILE
from adapter_lab.training.bases import open_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "toy-flow.safetensors"
    make_flow(out, lambda text: None, steps=2, scenes=32)
    return out


def test_it_is_known_as_a_rectified_flow_and_draws_with_its_sampler(made: Path) -> None:
    base = open_base(BaseConfig(checkpoint=str(made)))
    assert (base.family, base.prediction) == ("sdxl", "flow")
    parts = load_parts(made)
    assert type(parts.sampler(4)).__name__ == "FlowMatchEulerDiscreteScheduler"
    drawn = generate(parts, character_prompts([0], 2, seed=1), steps=2)
    assert drawn.shape == (2, 3, 128, 128) and drawn.isfinite().all()


def test_all_but_the_unet_is_the_shipped_toys(made: Path) -> None:
    with safe_open(TOY_FILE, "pt") as old, safe_open(made, "pt") as new:
        assert set(old.keys()) - set(new.keys()) == {"v_pred"} and set(new.keys()) <= set(old.keys())
        changed = {name for name in new.keys() if not torch.equal(old.get_tensor(name), new.get_tensor(name))}  # noqa: SIM118
        assert {tensor.dtype for tensor in map(new.get_tensor, new.keys())} == {torch.float16}
    assert changed and all(name.startswith("model.diffusion_model.") for name in changed)
    assert made.stat().st_size <= LARGEST
