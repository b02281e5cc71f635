"""The shipped toy checkpoint: what it is, and that it knows the toy world."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adapter_lab.demo.evaluate import Parts, character_prompts, evaluate, generate, ordinary_prompts
from adapter_lab.demo.run import load_parts
from adapter_lab.demo.scorer import likeness, read_pictures, tag_accuracy
from adapter_lab.demo.toy_file import LARGEST, SCORER, TOY_FILE, open_scorer
from adapter_lab.demo.world import CHARACTERS
from adapter_lab.training.bases.layout import layout


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts(TOY_FILE)


def test_the_file_is_small_and_fp16() -> None:
    assert TOY_FILE.stat().st_size <= LARGEST
    with safe_open(TOY_FILE, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_every_tensor_has_a_name_of_the_real_sdxl_layout() -> None:
    """Transformers and text encoders are less deep; two VAE blocks have a shortcut more, as all its widths differ."""
    with safe_open(TOY_FILE, "pt") as file:
        names = [name for name in file.keys() if not name.startswith(SCORER) and name != "v_pred"]  # noqa: SIM118
    assert len(names) > 500
    new = set(names) - set(layout("sdxl"))
    assert {re.sub(r"\.(weight|bias)$", "", name) for name in new} == {
        "first_stage_model.encoder.down.3.block.0.nin_shortcut",
        "first_stage_model.decoder.up.2.block.0.nin_shortcut",
    }
    blocks = {re.match(r"model\.diffusion_model\.(?:input|output)_blocks\.\d+", name) for name in layout("sdxl")}
    present = {re.match(r"model\.diffusion_model\.(?:input|output)_blocks\.\d+", name) for name in names}
    assert {found[0] for found in present if found} == {found[0] for found in blocks if found}


def test_the_file_says_what_shapes_cannot() -> None:
    with safe_open(TOY_FILE, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.prediction_type"] == "v"
    assert set(json.loads(metadata["adapter_lab.architecture"])) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert set(json.loads(metadata["adapter_lab.tokenizer"])) >= {"vocab", "merges"}


def test_a_picture_depends_on_its_prompt_and_seed_not_on_its_batch(parts: Parts) -> None:
    prompts = ordinary_prompts(1, 3, seed=5)
    together = generate(parts, prompts, steps=3)
    alone = generate(parts, prompts[1:2], steps=3)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("figures", "least"), [(1, 0.97), (2, 0.93)])
def test_the_base_draws_what_tags_ask_for(parts: Parts, figures: int, least: float) -> None:
    prompts = ordinary_prompts(figures, 12, seed=50)
    seen = read_pictures(open_scorer(), generate(parts, prompts))
    accuracy = [tag_accuracy(prompt.scene, scene) for prompt, scene in zip(prompts, seen, strict=True)]
    assert sum(accuracy) / len(accuracy) >= least


@pytest.mark.parametrize("index", [0, 1])
def test_the_base_does_not_know_the_new_characters(parts: Parts, index: int) -> None:
    prompts = character_prompts([index], 12, seed=60)
    seen = read_pictures(open_scorer(), generate(parts, prompts))
    assert sum(likeness(scene.figures[0], CHARACTERS[index]) for scene in seen) / 12 <= 0.45


@pytest.mark.slow
def test_the_base_as_a_whole(parts: Parts) -> None:
    scores = evaluate(parts, open_scorer(), count=48)
    assert scores.tags_one >= 0.98
    assert scores.tags_two >= 0.95
    assert max(scores.likeness_first, scores.likeness_second, scores.likeness_together) <= 0.45
    assert scores.pictures == 240


def test_the_shipped_file_lies_in_the_package() -> None:
    assert Path(TOY_FILE).parent.name == "demo"
