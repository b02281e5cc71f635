"""Drawing and scoring a study's files: resumable, and never mixing files, settings or scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adapter_lab.errors import ConfigError
from adapter_lab.study.running.scoring import Scoring, drawing_config, open_scorers
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.settings import PictureSettings
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value
from tests.support.studies import study_of
from tests.support.training import draw_pictures, tiny_base


class Brightness:
    """Measures how bright images are, and drift from the base's; counts what it is asked."""

    def __init__(self, name: str, metrics: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.name, self.metrics, self.settings, self.asked = name, metrics, settings, 0

    def prompts(self, study: Study) -> list[ScorePrompt]:
        return [ScorePrompt("a", 1, "x"), ScorePrompt("b", 2, "y")]

    def score(self, pictures: Sequence[Picture], context: Context) -> list[Value]:
        self.asked += 1
        assert [picture.prompt for picture in pictures] == self.prompts(context.study)
        found = []
        for picture in pictures:
            value = bright(picture.path)
            found += [Value(metric, value, picture.prompt.seed) for metric in self.metrics if metric != "drift"]
            if "drift" in self.metrics and picture.prompt in context.base:
                found.append(Value("drift", abs(value - bright(context.base[picture.prompt])), picture.prompt.seed))
        return found


def bright(path: Path) -> float:
    with Image.open(path) as picture:
        return sum(picture.convert("L").histogram()[n] * n for n in range(256)) / picture.width / picture.height


class CountingDrawer:
    """Draws one colour per adapter file, and counts."""

    def __init__(self) -> None:
        self.drawn: list[Path | None] = []
        self.die_after = -1

    def draw(
        self, prompts: Sequence[tuple[str, int]], adapters: Sequence[tuple[Path, float]] = ()
    ) -> Iterator[Image.Image]:
        self.drawn.append(adapters[0][0] if adapters else None)
        shade = len(adapters[0][0].read_bytes()) if adapters else 0
        for number, (_, seed) in enumerate(prompts):
            if number == self.die_after:
                raise KeyboardInterrupt
            yield Image.new("RGB", (8, 8), (shade + seed,) * 3)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    found = study_of(draw_pictures(tmp_path / "data"))
    found.shared.base.checkpoint = str(tiny_base("sd15"))
    return found


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"." * 50)
    return path


@pytest.fixture
def make(study: Study, tmp_path: Path) -> Callable[..., tuple[Scoring, CountingDrawer, list[Brightness]]]:
    """A new scoring of the same folder, as after a restart."""

    def made(*scorers: Brightness) -> tuple[Scoring, CountingDrawer, list[Brightness]]:
        used = list(scorers) or [Brightness("light", ["fidelity", "drift"], {"a": 1})]
        scoring, drawer = Scoring(study, tmp_path / "study", used), CountingDrawer()
        scoring.__dict__["drawer"] = drawer
        return scoring, drawer, used

    return made


def test_what_was_drawn_and_measured_is_not_done_again(make: Any, adapter: Path) -> None:
    scoring, drawer, _ = make()
    base, values = scoring.measure("base", 0, None), scoring.measure("run", 10, adapter)
    assert drawer.drawn == [None, adapter]
    assert [value.metric for value in base] == ["fidelity", "fidelity"]
    assert [value.value for value in values if value.metric == "drift"] == [50.0, 50.0]
    scoring, drawer, (scorer,) = make()
    assert scoring.measure("base", 0, None) == base and scoring.measure("run", 10, adapter) == values
    assert drawer.drawn == [] and scorer.asked == 0


def test_another_file_at_the_same_step_is_drawn_and_measured_anew(make: Any, adapter: Path) -> None:
    scoring, drawer, _ = make()
    before = scoring.measure("run", 10, adapter)
    adapter.write_bytes(b"." * 90)
    assert scoring.measure("run", 10, adapter) != before
    assert drawer.drawn.count(adapter) == 2


def test_other_settings_of_a_scorer_measure_anew_without_drawing(make: Any, adapter: Path) -> None:
    make()[0].measure("run", 10, adapter)
    scoring, drawer, (scorer,) = make(Brightness("light", ["fidelity"], {"a": 2}))
    scoring.measure("run", 10, adapter)
    assert scorer.asked == 1 and drawer.drawn == []


def test_other_settings_of_pictures_draw_anew(make: Any, study: Study, adapter: Path) -> None:
    make()[0].measure("run", 10, adapter)
    study.scores["pictures"] = {"steps": 7}
    scoring, drawer, _ = make()
    assert scoring.config.preview.steps == 7
    scoring.measure("run", 10, adapter)
    assert adapter in drawer.drawn


def test_a_drawing_that_was_broken_off_is_done_again(make: Any, adapter: Path) -> None:
    scoring, drawer, _ = make()
    drawer.die_after = 1
    with pytest.raises(KeyboardInterrupt):
        scoring.measure("run", 10, adapter)
    scoring, drawer, _ = make()
    assert len(scoring.measure("run", 10, adapter)) == 4
    assert drawer.drawn == [adapter, None]


def test_pictures_of_several_scorers_are_drawn_once(make: Any, adapter: Path) -> None:
    scoring, drawer, _ = make(Brightness("one", ["fidelity"], {}), Brightness("two", ["agreement"], {}))
    values = scoring.measure("run", 10, adapter)
    assert drawer.drawn == [adapter, None]
    assert [value.metric for value in values] == ["fidelity", "fidelity", "agreement", "agreement"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"nose": {}}, "There is no scorer 'nose'; choose among clip, dino, tagger, toy"),
        ({"clip": {"metrics": ["fidelity"]}, "dino": {}}, "scores.clip and scores.dino both measure fidelity"),
        ({"pictures": {"per_prompt": 0}}, "per_prompt"),
        ({"pictures": {"colour": "red"}}, "colour"),
    ],
)
def test_scorers_that_cannot_be_used_are_refused(study: Study, scores: dict[str, Any], words: str) -> None:
    def toy(name: str, table: Mapping[str, Any], pictures: PictureSettings) -> Brightness:
        return Brightness(name, ["fidelity"], table)

    study.scores = scores
    with pytest.raises(ConfigError, match=words):
        open_scorers(study, {"toy": toy})


def test_pictures_are_drawn_as_samples_are_unless_told_otherwise(study: Study) -> None:
    study.shared.preview.guidance, study.shared.preview.steps = 2.5, 11
    study.scores["pictures"] = {"guidance": 4.0, "negative": "blurry"}
    preview = drawing_config(study).preview
    assert (preview.guidance, preview.steps, preview.negative) == (4.0, 11, "blurry")
    assert study.shared.preview.guidance == 2.5
