"""Scores by embeddings: CLIP (Radford et al. 2021) and DINOv2 (Oquab et al. 2023), read through transformers.

Fidelity is the mean cosine similarity of an image to the training images of what its prompt asks for, agreement that
of an image to its prompt, drift one minus that of an image to the base's image of the same prompt and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from adapter_lab.errors import ConfigError
from adapter_lab.study.scores import Context
from adapter_lab.study.scores.concepts import (
    NEUTRAL,
    TrainingFolder,
    neutral_prompts,
    prompts_about,
    training_folder,
)
from adapter_lab.study.scores.settings import PICTURES, EmbeddingSettings, PictureSettings, first_line, settings_of
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import Picture, ScorePrompt, Value

BATCH = 16


class EmbeddingModel:
    """Vectors of unit length from images, and with CLIP from texts."""

    def __init__(self, name: str, device: str) -> None:
        """Load the model; raises ConfigError in a sentence where there is none."""
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.device = torch.device(_device(device))
        self.processor: Any = _loaded(name, lambda: AutoImageProcessor.from_pretrained(name, use_fast=False))
        self.model: Any = _loaded(name, lambda: AutoModel.from_pretrained(name)).eval().to(self.device)
        self.reads_text = hasattr(self.model, "get_text_features")
        self.tokenizer: Any = _loaded(name, lambda: AutoTokenizer.from_pretrained(name)) if self.reads_text else None

    @torch.no_grad()
    def pictures(self, paths: Sequence[Path]) -> Tensor:
        """Vectors (n, d) of image files."""
        found = []
        for start in range(0, len(paths), BATCH):
            opened = [_rgb(path) for path in paths[start : start + BATCH]]
            pixels = self.processor(images=opened, return_tensors="pt")["pixel_values"].to(self.device)
            if self.reads_text:
                found.append(_features(self.model.get_image_features(pixel_values=pixels)))
            else:
                found.append(_features(self.model(pixel_values=pixels)))
        return F.normalize(torch.cat(found).float().cpu(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors (n, d) of texts, of which CLIP reads the first 75 tokens."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        found = _features(self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]))
        return F.normalize(found.float().cpu(), dim=-1)


class EmbeddingScorer:
    """Fidelity, agreement and drift by a model's vectors."""

    def __init__(self, name: str, settings: EmbeddingSettings, pictures: PictureSettings) -> None:
        self.name = name
        self._given, self._pictures = settings, pictures
        self.settings: Mapping[str, Any] = {**asdict(settings), PICTURES: asdict(pictures)}
        self._references: dict[str, Tensor] = {}
        self._folder: TrainingFolder | None = None

    @property
    def metrics(self) -> list[str]:
        """What it measures."""
        return self._given.metrics

    @cached_property
    def model(self) -> EmbeddingModel:
        """The model, loaded when it is first needed."""
        model = EmbeddingModel(self._given.model, self._given.device)
        if "agreement" in self.metrics and not model.reads_text:
            raise ConfigError(
                f"scores.{self.name}: {self._given.model} cannot read prompts, so it cannot measure agreement; take "
                "it out of metrics, or choose a CLIP model."
            )
        return model

    def prompts(self, study: Study) -> list[ScorePrompt]:
        """Prompts about what was trained, and neutral ones for drift."""
        about = prompts_about(self.folder(study), self._pictures)
        return [*about, *(neutral_prompts(self._pictures) if "drift" in self.metrics else [])]

    def score(self, pictures: Sequence[Picture], context: Context) -> list[Value]:
        """Its metrics of every image they can be measured on."""
        vectors = self.model.pictures([picture.path for picture in pictures])
        values: list[Value] = []
        for metric, measure in (("fidelity", self._fidelity), ("agreement", self._agreement), ("drift", self._drift)):
            if metric in self.metrics:
                values += measure(pictures, vectors, context)
        return values

    def folder(self, study: Study) -> TrainingFolder:
        """The training images."""
        if self._folder is None:
            self._folder = training_folder(study, self._pictures)
        return self._folder

    def _fidelity(self, pictures: Sequence[Picture], vectors: Tensor, context: Context) -> list[Value]:
        values = []
        for picture, vector in zip(pictures, vectors, strict=True):
            about = picture.prompt.about
            reference = self._reference(about, context.study) if about != NEUTRAL else None
            if reference is not None:
                values.append(Value("fidelity", float(reference @ vector), picture.prompt.seed, about))
        return values

    def _reference(self, about: str, study: Study) -> Tensor | None:
        """The mean vector of the training images of something, whose product is the mean similarity to them."""
        if about not in self._references:
            found = [picture.path for picture in self.folder(study).of(about)]
            self._references[about] = self.model.pictures(found).mean(dim=0) if found else torch.empty(0)
        return self._references[about] if self._references[about].numel() else None

    def _agreement(self, pictures: Sequence[Picture], vectors: Tensor, context: Context) -> list[Value]:
        texts = self.model.texts([picture.prompt.text for picture in pictures])
        similar = (texts * vectors).sum(dim=-1).tolist()
        return [
            Value("agreement", value, picture.prompt.seed, picture.prompt.about)
            for picture, value in zip(pictures, similar, strict=True)
        ]

    def _drift(self, pictures: Sequence[Picture], vectors: Tensor, context: Context) -> list[Value]:
        neutral = [index for index, p in enumerate(pictures) if p.prompt.about == NEUTRAL and p.prompt in context.base]
        if not neutral:
            return []
        base = self.model.pictures([context.base[pictures[index].prompt] for index in neutral])
        similar = (base * vectors[neutral]).sum(dim=-1).tolist()
        return [
            Value("drift", 1 - value, pictures[index].prompt.seed)
            for index, value in zip(neutral, similar, strict=True)
        ]


# Scorer -> its usual model and what it measures unless told otherwise.
USUAL = {
    "clip": ("openai/clip-vit-large-patch14", ["agreement"], ("fidelity", "agreement", "drift")),
    "dino": ("facebook/dinov2-base", ["fidelity", "drift"], ("fidelity", "drift")),
}


def embedding_scorer(name: str, table: Mapping[str, Any], pictures: PictureSettings) -> EmbeddingScorer:
    """The scorer `clip` or `dino` with a study's settings; raises ConfigError for what it cannot measure."""
    settings = settings_of(EmbeddingSettings, table, name)
    model, metrics, possible = USUAL[name]
    settings.model, settings.metrics = settings.model or model, settings.metrics or metrics
    for metric in settings.metrics:
        if metric not in possible:
            raise ConfigError(f"scores.{name} cannot measure {metric}; it measures {', '.join(possible)}.")
    return EmbeddingScorer(name, settings, pictures)


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"The model {name} cannot be loaded ({first_line(error)}). Give the folder of a downloaded model (with "
            "config.json, preprocessor_config.json and model.safetensors) in the scorer's setting model, or connect to "
            "the internet once so that it can be fetched from huggingface.co."
        ) from error


def _features(output: Any) -> Tensor:
    """Vectors (n, d): transformers 5 wraps what its predecessor returned."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _rgb(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
