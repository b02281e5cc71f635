"""Scores by CLIP and DINOv2, with tiny models in the files that real ones come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from adapter_lab.errors import ConfigError
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.concepts import NEUTRAL
from adapter_lab.study.scores.embeddings import EmbeddingModel, embedding_scorer
from adapter_lab.study.scores.settings import PictureSettings
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value
from tests.support.image_models import write_clip, write_dino
from tests.support.studies import captioned_folder, study_of


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Red images of anna, blue ones of bea, one of both."""
    red, dark, blue, purple = (220, 30, 30), (200, 20, 20), (20, 30, 220), (120, 30, 120)
    captions = {"anna, day": red, "anna, night": dark, "bea, day": blue, "anna, bea": purple}
    return study_of(captioned_folder(tmp_path / "data", captions))


def picture(folder: Path, colour: tuple[int, int, int], text: str, about: str, seed: int = 1) -> Picture:
    path = folder / f"{len(list(folder.glob('*.png')))}.png"
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-15, 15, (40, 40, 3), generator=generator)
    pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return Picture(path, ScorePrompt(text, seed, about))


def by_metric(values: list[Value], metric: str) -> list[Value]:
    return [value for value in values if value.metric == metric]


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_a_picture_is_most_like_itself(kind: str, clip: Path, dino: Path, tmp_path: Path) -> None:
    model = EmbeddingModel(str({"clip": clip, "dino": dino}[kind]), "cpu")
    paths = [picture(tmp_path, colour, "", "").path for colour in ((220, 30, 30), (20, 220, 30), (20, 30, 220))]
    vectors = model.pictures(paths)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(3), atol=1e-5)
    similar = vectors @ vectors.T
    assert torch.equal(similar.argmax(dim=-1), torch.arange(3))
    assert torch.equal(vectors, model.pictures(paths))


def test_batches_do_not_change_vectors(dino: Path, tmp_path: Path) -> None:
    model = EmbeddingModel(str(dino), "cpu")
    paths = [picture(tmp_path, (10 * n, 100, 50), "", "", seed=n).path for n in range(19)]
    assert torch.allclose(model.pictures(paths)[17:18], model.pictures([paths[17]]), atol=1e-5)


def test_fidelity_is_the_mean_similarity_to_the_pictures_of_the_concept(
    dino: Path, study: Study, tmp_path: Path
) -> None:
    scorer = embedding_scorer("dino", {"model": str(dino), "device": "cpu", "metrics": ["fidelity"]}, PictureSettings())
    drawn = [picture(tmp_path, (210, 25, 25), "anna, day", "anna"), picture(tmp_path, (90, 90, 0), "bea", "bea", 2)]
    values = scorer.score(drawn, Context(study, tmp_path, {}))
    assert [(value.metric, value.concept, value.seed) for value in values] == [
        ("fidelity", "anna", 1),
        ("fidelity", "bea", 2),
    ]
    references = sorted(Path(study.shared.dataset.folder).glob("anna-[12].png"))
    model = EmbeddingModel(str(dino), "cpu")
    expected = (model.pictures([drawn[0].path]) @ model.pictures(references).T).mean()
    assert values[0].value == pytest.approx(float(expected), abs=1e-5)
    assert values[0].value > values[1].value


def test_drift_is_none_for_the_base_pictures_themselves(dino: Path, study: Study, tmp_path: Path) -> None:
    scorer = embedding_scorer("dino", {"model": str(dino), "device": "cpu"}, PictureSettings())
    neutral = [
        picture(tmp_path, colour, "chair", NEUTRAL, seed) for seed, colour in enumerate([(9, 99, 9), (200, 200, 9)])
    ]
    other = Picture(picture(tmp_path, (250, 250, 250), "", "").path, neutral[1].prompt)
    base = {entry.prompt: entry.path for entry in neutral}
    same, changed = by_metric(scorer.score([neutral[0], other], Context(study, tmp_path, base)), "drift")
    assert same.value == pytest.approx(0, abs=1e-5)
    assert changed.value > 1e-3
    assert not by_metric(scorer.score(neutral, Context(study, tmp_path, {})), "drift")  # the base itself


def test_agreement_is_the_similarity_of_picture_and_prompt(clip: Path, study: Study, tmp_path: Path) -> None:
    scorer = embedding_scorer("clip", {"model": str(clip), "device": "cpu"}, PictureSettings())
    drawn = [picture(tmp_path, (220, 30, 30), text, "anna", seed) for seed, text in enumerate(["a b c", "x y z"])]
    values = scorer.score(drawn, Context(study, tmp_path, {}))
    model = EmbeddingModel(str(clip), "cpu")
    expected = (model.pictures([p.path for p in drawn]) * model.texts(["a b c", "x y z"])).sum(dim=-1)
    assert [value.value for value in values] == pytest.approx(expected.tolist(), abs=1e-5)
    assert {value.metric for value in values} == {"agreement"}


def test_prompts_are_captions_of_every_concept_and_neutral_ones_for_drift(dino: Path, study: Study) -> None:
    pictures = PictureSettings(captions=2, per_prompt=2, neutral=["a chair"], concepts=["anna", "bea"])
    prompts = embedding_scorer("dino", {"model": str(dino)}, pictures).prompts(study)
    assert {(prompt.text, prompt.about) for prompt in prompts} == {
        ("anna, day", "anna"), ("anna, night", "anna"), ("bea, day", "bea"), ("a chair", NEUTRAL),
    }  # fmt: skip
    assert sorted({prompt.seed for prompt in prompts}) == [1000, 1001] and len(prompts) == 8
    only = embedding_scorer("dino", {"model": str(dino), "metrics": ["fidelity"]}, pictures).prompts(study)
    assert NEUTRAL not in {prompt.about for prompt in only}


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("dino", {"metrics": ["agreement"]}, "scores.dino cannot measure agreement"),
        ("clip", {"modle": "x"}, "modle"),
        ("clip", {"metrics": ["beauty"]}, "cannot measure beauty"),
    ],
)
def test_wrong_settings_are_refused(name: str, table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        embedding_scorer(name, table, PictureSettings())


def test_a_missing_model_is_one_sentence_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*\)\. Give the folder of a downloaded model") as caught:
        EmbeddingModel(str(tmp_path / "nowhere"), "cpu")
    assert "\n" not in str(caught.value)
