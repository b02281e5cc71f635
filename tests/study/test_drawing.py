"""Images with adapter files on a base that is loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.config import TrainConfig
from adapter_lab.errors import FileFormatError
from adapter_lab.study.pictures.drawing import Drawer
from adapter_lab.training.loop import train
from tests.support.training import tiny_base, tiny_config

PROMPTS = [("a cat", 1), ("a dog, " * 60, 2), ("a cat", 3), ("a cat", 1)]  # the second takes several chunks


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the text encoder and convolutions, trained for two violent steps."""
    config = tiny_config(
        tmp_path_factory.mktemp("run"), network__train_te=True, network__conv_dim=2, optimizer__lr=0.5, run__steps=2
    )
    return train(config).adapters[-1]


def drawer(base: Path | None = None) -> Drawer:
    config = TrainConfig()
    config.base.checkpoint = str(base or tiny_base("sd15"))
    config.dataset.resolution, config.preview.steps, config.precision.device = 64, 2, "cpu"
    return Drawer(config)


def pixels(pictures: list[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


def same(one: bytes, other: bytes) -> bool:
    """Whether images that took other ways through the same sums differ by their rounding at most."""
    return len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_an_adapter_is_drawn_as_the_checkpoint_it_was_applied_to(adapter: Path, tmp_path: Path) -> None:
    apply_adapters(tiny_base("sd15"), [(adapter, 1.0)], tmp_path / "patched.safetensors", dtype="fp32")
    drawn = pixels(list(drawer().draw(PROMPTS, [(adapter, 1.0)])))
    patched = pixels(list(drawer(tmp_path / "patched.safetensors").draw(PROMPTS)))
    assert all(same(one, other) for one, other in zip(drawn, patched, strict=True))
    base = pixels(list(drawer().draw(PROMPTS)))
    assert not any(same(one, other) for one, other in zip(drawn, base, strict=True))


def test_every_weight_is_the_base_again_afterwards(adapter: Path) -> None:
    found = drawer()
    before = {f"{part}.{k}": v.clone() for part, m in found.parts.items() for k, v in m.state_dict().items()}
    first = pixels(list(found.draw(PROMPTS)))
    list(found.draw(PROMPTS[:1], [(adapter, 0.7), (adapter, 1.0)]))
    after = {f"{part}.{k}": v for part, m in found.parts.items() for k, v in m.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert pixels(list(found.draw(PROMPTS))) == first


def test_a_picture_depends_on_prompt_and_seed(adapter: Path) -> None:
    first, other, seed, again = pixels(list(drawer().draw(PROMPTS)))
    assert same(first, again)
    assert not same(first, other) and not same(first, seed) and not same(other, seed)


def test_a_file_of_another_family_is_refused_and_nothing_stays(adapter: Path) -> None:
    found = drawer(tiny_base("sdxl"))
    before = pixels(list(found.draw(PROMPTS[:1])))
    with pytest.raises(FileFormatError, match="was trained for"):
        list(found.draw(PROMPTS[:1], [(adapter, 1.0)]))
    assert pixels(list(found.draw(PROMPTS[:1]))) == before


def test_a_broken_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(FileFormatError):
        list(drawer().draw(PROMPTS[:1], [(tmp_path / "broken.safetensors", 1.0)]))
