"""The toy world's exact scorer in a study, on drawings whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from adapter_lab.demo.drawing import draw_scene
from adapter_lab.demo.toy_scores import ASKED, FIRST, ONE, SECOND, TOGETHER, TWO, ToyScorer, toy_scorer
from adapter_lab.demo.world import Scene
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.settings import PictureSettings
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, Value

STUDY = Study()


@pytest.fixture(scope="module")
def scorer() -> ToyScorer:
    return toy_scorer("toy", {"pictures": 3}, PictureSettings())


def drawn(scorer: ToyScorer, folder: Path, scenes: Sequence[Scene]) -> list[Picture]:
    folder.mkdir()
    pictures = []
    for number, (scene, prompt) in enumerate(zip(scenes, scorer.prompts(STUDY), strict=True)):
        draw_scene(scene, random.Random(number), 0.0).save(folder / f"{number}.png")
        pictures.append(Picture(folder / f"{number}.png", prompt))
    return pictures


def mean(values: Sequence[Value], metric: str, concept: str = "") -> float:
    return fmean(v.value for v in values if v.metric == metric and concept in ("", v.concept))


def truth(scorer: ToyScorer) -> list[Scene]:
    return [prompt.scene for _, prompt in scorer._prompts]


def test_a_perfect_model_is_all_alike_and_drifts_nowhere(scorer: ToyScorer, tmp_path: Path) -> None:
    pictures = drawn(scorer, tmp_path / "pictures", truth(scorer))
    base = {picture.prompt: picture.path for picture in pictures}
    values = scorer.score(pictures, Context(STUDY, tmp_path, base))
    for concept in (FIRST, SECOND, TOGETHER):
        assert mean(values, "fidelity", concept) > 0.95
    assert mean(values, "agreement", ASKED) > 0.95 and mean(values, "agreement", ONE) > 0.95
    assert mean(values, "drift") == 0.0
    assert {value.concept for value in values if value.metric == "drift"} == {ONE, TWO}


def test_swapped_characters_are_bleeding_and_unlike(scorer: ToyScorer, tmp_path: Path) -> None:
    scenes = truth(scorer)
    perfect = scorer.score(drawn(scorer, tmp_path / "a", scenes), Context(STUDY, tmp_path, {}))
    mixed = [
        Scene((scene.figures[0], scene.figures[0]), scene.background) if kind == TOGETHER else scene
        for (kind, _), scene in zip(scorer._prompts, scenes, strict=True)
    ]
    values = scorer.score(drawn(scorer, tmp_path / "b", mixed), Context(STUDY, tmp_path, {}))
    assert mean(values, "bleeding") > mean(perfect, "bleeding") + 0.3
    assert mean(values, "fidelity", TOGETHER) < mean(perfect, "fidelity", TOGETHER) - 0.3
    assert mean(values, "fidelity", FIRST) == pytest.approx(mean(perfect, "fidelity", FIRST), abs=0.1)


def test_other_ordinary_pictures_are_drift_and_disagree(scorer: ToyScorer, tmp_path: Path) -> None:
    scenes = truth(scorer)
    pictures = drawn(scorer, tmp_path / "a", scenes)
    base = {picture.prompt: picture.path for picture in pictures}
    others = [*scenes[:9], *scenes[10:12], scenes[9], *scenes[13:15], scenes[12]]  # within their kind
    values = scorer.score(drawn(scorer, tmp_path / "b", others), Context(STUDY, tmp_path, base))
    assert mean(values, "drift") > 0.3
    assert mean(values, "agreement", ONE) < 0.7
    assert mean(values, "fidelity", FIRST) > 0.95


def test_prompts_and_seeds_are_the_same_for_every_adapter(scorer: ToyScorer) -> None:
    again = toy_scorer("toy", {"pictures": 3}, PictureSettings())
    assert scorer.prompts(STUDY) == again.prompts(STUDY)
    assert scorer.prompts(STUDY) != toy_scorer("toy", {"pictures": 3, "seed": 7}, PictureSettings()).prompts(STUDY)
    assert [prompt.about for prompt in again.prompts(STUDY)] == [
        k for k in (FIRST, SECOND, TOGETHER, ONE, TWO) for _ in range(3)
    ]
