"""`[scores.*]` in a study: which images are drawn, and what scorers can be told; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from adapter_lab.config_file import raise_all, table_values
from adapter_lab.errors import ConfigError, shown
from adapter_lab.option import option
from adapter_lab.study.spec.definition import Study
from adapter_lab.validation import dataclass_problems

PICTURES = "pictures"
# Ordinary subjects, as tags and as sentences, that hardly any folder is about.
NEUTRAL = (
    "a wooden chair beside a window, soft light",
    "a mountain lake at sunset, wide view",
    "a bowl of fruit on a table, still life",
    "a crowded street with shops, rainy evening",
    "1girl, solo, brown hair, school uniform, standing, outdoors, smile",
    "1boy, solo, short hair, jacket, sitting, indoors, looking at viewer",
)
Settings = TypeVar("Settings")


@dataclass
class PictureSettings:
    """The images that scorers see of every adapter; the toy's scorer has its own prompts."""

    prompts: list[str] = option([], "Prompts about what was trained; empty: captions of the training images.")
    captions: int = option(3, "Captions per concept that are taken where no prompts are given.", minimum=1)
    neutral: list[str] = option(list(NEUTRAL), "Prompts about other things, on which drift is measured.")
    concepts: list[str] = option(
        [], "Trigger words that tell concepts apart in captions and prompts; empty: found in the captions."
    )
    per_prompt: int = option(2, "Images per prompt, each with a seed of its own.", minimum=1, maximum=100)
    seed: int = option(1000, "Seed of the first image.", minimum=0)
    steps: int = option(0, "Sampling steps; 0: those of the sample images.", minimum=0, maximum=200)
    guidance: float = option(0.0, "Classifier-free guidance; 0: that of the sample images.", minimum=0, maximum=30)
    width: int = option(0, "Width; 0: that of the sample images.", minimum=0, unit="px")
    height: int = option(0, "Height; 0: that of the sample images.", minimum=0, unit="px")
    negative: str = option("", "Negative prompt; empty: that of the sample images.")


@dataclass
class EmbeddingSettings:
    """A model that turns images into vectors."""

    model: str = option("", "Folder of the model, or its name on the Hugging Face hub.", path="model")
    metrics: list[str] = option([], "What it measures: fidelity, agreement (CLIP only), drift.")
    device: str = option("auto", "Where it runs: auto, cpu, cuda.")


@dataclass
class TaggerSettings:
    """A tagger that reads booru tags from images."""

    model: str = option(
        "SmilingWolf/wd-vit-tagger-v3",
        "Folder with model.onnx and selected_tags.csv, or a name on the Hugging Face hub.",
        path="model",
    )
    metrics: list[str] = option(["bleeding"], "What it measures: agreement, bleeding.")
    threshold: float = option(0.35, "Probability from which a tag counts as seen.", minimum=0, maximum=1)


@dataclass
class ToySettings:
    """How many images of each kind are drawn of every adapter: each character, both, one and two other figures."""

    pictures: int = option(8, "Images of each of the five kinds.", minimum=1, maximum=1000)
    seed: int = option(100, "Seed of the prompts.", minimum=0)


# Every scorer there is, by name, with what it can be told.
SCORERS: dict[str, type] = {
    "clip": EmbeddingSettings,
    "dino": EmbeddingSettings,
    "tagger": TaggerSettings,
    "toy": ToySettings,
}


def scorer_settings(study: Study) -> dict[str, Any]:
    """The settings of images and of every scorer of the study; raises ConfigError with what is wrong with them."""
    unknown = [name for name in study.scores if name not in (PICTURES, *SCORERS)]
    if unknown:
        raise ConfigError(f"There is no scorer {shown(unknown[0])}; choose among {', '.join(SCORERS)}.")
    owners = {PICTURES: PictureSettings, **SCORERS}
    return {name: settings_of(owners[name], table, name) for name, table in study.scores.items()}


def picture_settings(study: Study) -> PictureSettings:
    """The study's settings of images; raises ConfigError with what is wrong with them."""
    return settings_of(PictureSettings, study.scores.get(PICTURES, {}), PICTURES)


def settings_of(owner: type[Settings], table: Mapping[str, Any], name: str) -> Settings:
    """A scorer's settings as their dataclass; raises ConfigError with everything that is not understood."""
    problems: list[str] = []
    values = owner(**table_values(table, owner, f"scores.{name}", problems))
    problems += [problem.message for problem in dataclass_problems(f"scores.{name}", values, owner)]
    raise_all("The study", problems)
    return values


def first_line(error: Exception) -> str:
    """What another program's error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
