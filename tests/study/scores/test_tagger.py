"""Scores by a WD tagger, with a tiny ONNX model that sees colours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from adapter_lab.errors import ConfigError
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.settings import PictureSettings
from adapter_lab.study.scores.tagger import Tagger, TaggerScorer, tagger_scorer
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt
from tests.support.image_models import write_tagger
from tests.support.studies import Colour, captioned_folder, study_of

RED, GREEN, BLUE, MAGENTA = (220, 10, 10), (10, 220, 10), (10, 10, 220), (220, 10, 220)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sees "red_hair", "green_eyes", "blue_dress" by the channels, and anything as the character "anna"."""
    tags = [("general", "9"), ("red_hair", "0"), ("green_eyes", "0"), ("blue_dress", "0"), ("anna", "4")]
    weights = [[0, 0, 0], [0, 0, 0.2], [0, 0.2, 0], [0.2, 0, 0], [0.2, 0.2, 0.2]]  # of blue, green, red
    return write_tagger(tmp_path_factory.mktemp("tagger"), tags, weights, -10)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return study_of(captioned_folder(tmp_path / "data", {"anna, 1": RED, "anna, 2": RED, "bea, 1": BLUE}))


def scorer(model: Path, *metrics: str) -> TaggerScorer:
    return tagger_scorer("tagger", {"model": str(model), "metrics": list(metrics)}, PictureSettings())


def picture(folder: Path, colour: Colour, text: str, about: str) -> Picture:
    path = folder / f"{len(list(folder.glob('*.png')))}.png"
    Image.new("RGB", (60, 60), colour).save(path)
    return Picture(path, ScorePrompt(text, 5, about))


@pytest.mark.parametrize(("colour", "tag"), [(RED, "red hair"), (GREEN, "green eyes"), (BLUE, "blue dress")])
def test_only_general_tags_are_read_and_colours_are_bgr(model: Path, tmp_path: Path, colour: Colour, tag: str) -> None:
    found = Tagger(str(model)).read(picture(tmp_path, colour, "", "").path)
    assert list(found) == ["red hair", "green eyes", "blue dress"]
    assert [name for name, chance in found.items() if chance > 0.35] == [tag]


def test_agreement_is_the_share_of_known_prompt_tags_that_are_seen(model: Path, study: Study, tmp_path: Path) -> None:
    drawn = [picture(tmp_path, RED, "anna, red hair, green_eyes, unknown thing", "anna"),
             picture(tmp_path, RED, "nothing known", "anna")]  # fmt: skip
    values = scorer(model, "agreement").score(drawn, Context(study, tmp_path, {}))
    assert [(value.metric, value.value, value.concept) for value in values] == [("agreement", 0.5, "anna")]


def test_what_marks_a_concept_is_what_the_other_does_not_have(model: Path, study: Study) -> None:
    assert scorer(model, "bleeding").marks(study) == {"anna": ["red hair"], "bea": ["blue dress"]}


@pytest.mark.parametrize(
    ("colour", "about", "bleeding"),
    [
        (RED, "anna", [0.0]),
        (MAGENTA, "anna", [1.0]),
        (RED, "bea", [1.0]),
        (BLUE, "bea", [0.0]),
        (MAGENTA, "anna + bea", []),
    ],
)
def test_bleeding_is_what_marks_the_other(
    model: Path, study: Study, tmp_path: Path, colour: Colour, about: str, bleeding: list[float]
) -> None:
    values = scorer(model, "bleeding").score([picture(tmp_path, colour, about, about)], Context(study, tmp_path, {}))
    assert [value.value for value in values] == bleeding


def test_bleeding_of_one_concept_is_refused(model: Path, tmp_path: Path) -> None:
    study = study_of(captioned_folder(tmp_path / "one", {"anna, 1": RED, "anna, 2": BLUE}))
    with pytest.raises(ConfigError, match="only one concept was found"):
        scorer(model, "bleeding").prompts(study)
    assert scorer(model, "agreement").prompts(study)


def test_a_folder_without_the_model_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "selected_tags.csv").write_text("tag_id,name,category,count")
    with pytest.raises(ConfigError, match=r"lacks model\.onnx; download both files"):
        Tagger(str(tmp_path))


def test_a_name_that_is_nowhere_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*\)\. Give a folder with model\.onnx"):
        Tagger("nobody/no-such-tagger")


def test_without_onnxruntime_the_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'install "adapter-lab\[tagger\]"'):
        Tagger(str(model))
