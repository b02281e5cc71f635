"""Scores by a WD tagger (SmilingWolf's, ONNX): tags of the prompt found in the image, and tags of another concept.

Agreement is the share of the prompt's tags that the tagger sees, of those it knows. Bleeding is the share of what marks
one concept that is seen in images that asked for another one alone: tags that most of its training images have and
hardly any of the other's.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from adapter_lab.errors import ConfigError
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.concepts import JOINT, NEUTRAL, TrainingFolder, prompts_about, tags_of, training_folder
from adapter_lab.study.scores.settings import PICTURES, PictureSettings, TaggerSettings, first_line, settings_of
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value

FILES = ("model.onnx", "selected_tags.csv")
GENERAL = "0"  # category of tags that are neither characters nor ratings
OFTEN, SELDOM = 0.5, 0.15  # shares of training images from which a tag marks a concept, and up to which it does not
POSSIBLE = ("agreement", "bleeding")


class Tagger:
    """General tags with their probabilities."""

    def __init__(self, name: str) -> None:
        """Load the model; raises ConfigError in a sentence where it or onnxruntime is missing."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                'The tagger needs the package onnxruntime: install "adapter-lab[tagger]", or leave scores.tagger out.'
            ) from error
        model, table = _files(name)
        self._session: Any = onnxruntime.InferenceSession(str(model), providers=onnxruntime.get_available_providers())
        self._input: Any = self._session.get_inputs()[0]
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._general = [index for index, row in enumerate(rows) if row["category"] == GENERAL]
        self.tags = [_plain(rows[index]["name"]) for index in self._general]

    def read(self, path: Path) -> dict[str, float]:
        """The probability of every general tag in an image."""
        side = int(self._input.shape[1])
        with Image.open(path) as picture:
            rgba = picture.convert("RGBA")
        square = Image.new("RGB", (max(rgba.size),) * 2, "white")
        square.paste(rgba, ((square.width - rgba.width) // 2, (square.height - rgba.height) // 2), rgba)
        pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        (found,) = self._session.run(None, {self._input.name: np.ascontiguousarray(pixels[None, :, :, ::-1])})  # BGR
        return {tag: float(found[0][index]) for tag, index in zip(self.tags, self._general, strict=True)}


class TaggerScorer:
    """Agreement and bleeding by tags."""

    name = "tagger"

    def __init__(self, settings: TaggerSettings, pictures: PictureSettings) -> None:
        self._given, self._pictures = settings, pictures
        self.settings: Mapping[str, Any] = {**asdict(settings), PICTURES: asdict(pictures)}
        self._folder: TrainingFolder | None = None
        self._marks: dict[str, list[str]] | None = None

    @property
    def metrics(self) -> list[str]:
        """What it measures."""
        return self._given.metrics

    @cached_property
    def tagger(self) -> Tagger:
        """The model, loaded when it is first needed."""
        return Tagger(self._given.model)

    def prompts(self, study: Study) -> list[ScorePrompt]:
        """Prompts about what was trained."""
        folder = self.folder(study)
        if "bleeding" in self.metrics and len(folder.concepts) < 2:
            raise ConfigError(
                "scores.tagger measures bleeding, but only one concept was found in the captions: name two or more "
                'trigger words in scores.pictures.concepts, or set scores.tagger.metrics to ["agreement"].'
            )
        return prompts_about(folder, self._pictures)

    def score(self, pictures: Sequence[Picture], context: Context) -> list[Value]:
        """Its metrics of every image they can be measured on."""
        values = []
        for picture in pictures:
            if picture.prompt.about == NEUTRAL:
                continue
            seen = {tag for tag, chance in self.tagger.read(picture.path).items() if chance >= self._given.threshold}
            if "agreement" in self.metrics:
                values += self._agreement(picture.prompt, seen)
            if "bleeding" in self.metrics:
                values += self._bleeding(picture.prompt, seen, context.study)
        return values

    def folder(self, study: Study) -> TrainingFolder:
        """The training images."""
        if self._folder is None:
            self._folder = training_folder(study, self._pictures)
        return self._folder

    def marks(self, study: Study) -> dict[str, list[str]]:
        """By concept, the tags that mark it: most of its training images have them, hardly any other's do."""
        if self._marks is None:
            folder = self.folder(study)
            shares = {concept: self._shares(folder, concept) for concept in folder.concepts}
            self._marks = {
                concept: [
                    tag
                    for tag, share in found.items()
                    if share >= OFTEN and all(shares[o].get(tag, 0) <= SELDOM for o in shares if o != concept)
                ]
                for concept, found in shares.items()
            }
        return self._marks

    def _shares(self, folder: TrainingFolder, concept: str) -> dict[str, float]:
        read = [self.tagger.read(picture.path) for picture in folder.of(concept)]
        return {
            tag: fmean(entry[tag] >= self._given.threshold for entry in read)
            for tag in (self.tagger.tags if read else [])
        }

    def _agreement(self, prompt: ScorePrompt, seen: set[str]) -> list[Value]:
        known = set(self.tagger.tags)
        wanted = [tag for tag in map(_plain, tags_of(prompt.text)) if tag in known]
        return [Value("agreement", fmean(tag in seen for tag in wanted), prompt.seed, prompt.about)] if wanted else []

    def _bleeding(self, prompt: ScorePrompt, seen: set[str], study: Study) -> list[Value]:
        if not prompt.about or JOINT in prompt.about:  # whose tag is whose cannot be told where both were asked for
            return []
        foreign = [tag for other, marks in self.marks(study).items() if other != prompt.about for tag in marks]
        return [Value("bleeding", fmean(tag in seen for tag in foreign), prompt.seed, prompt.about)] if foreign else []


def tagger_scorer(name: str, table: Mapping[str, Any], pictures: PictureSettings) -> TaggerScorer:
    """The scorer `tagger` with a study's settings; raises ConfigError for what it cannot measure."""
    settings = settings_of(TaggerSettings, table, name)
    for metric in settings.metrics:
        if metric not in POSSIBLE:
            raise ConfigError(f"scores.{name} cannot measure {metric}; it measures {', '.join(POSSIBLE)}.")
    return TaggerScorer(settings, pictures)


def _files(name: str) -> tuple[Path, Path]:
    """Model and table of tags, from a folder or the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing:
            raise ConfigError(f"{folder} lacks {' and '.join(missing)}; download both files of the tagger into it.")
        return folder / FILES[0], folder / FILES[1]
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILES[0])), Path(hf_hub_download(name, FILES[1]))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The tagger {name} cannot be loaded ({first_line(error)}). Give a folder with {' and '.join(FILES)} in "
            "scores.tagger.model, or connect to the internet once so that they can be fetched from huggingface.co."
        ) from error


def _plain(tag: str) -> str:
    """A tag as captions write it: spaces, no underscores, no escapes."""
    return tag.replace("_", " ").replace("\\", "").strip().lower()
