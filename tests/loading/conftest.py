"""Base checkpoints of every family, and every web UI with our loader in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.loading.forge_ui import ForgeUI
from tests.loading.web_uis import WEB_UIS, opened
from tests.support.checkpoints import write_random_checkpoint

FAMILIES = ("sd15", "sd2", "sdxl")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        family: write_random_checkpoint(folder / f"{family}.safetensors", f"tiny-{family}", torch.float32)
        for family in FAMILIES
    }


@pytest.fixture(params=WEB_UIS)
def ui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForgeUI]:
    folder = tmp_path / "Lora"
    folder.mkdir()
    with opened(request.param, folder) as started:
        yield started
