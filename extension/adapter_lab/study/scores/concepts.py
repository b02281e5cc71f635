"""What a training folder is about: its concepts, their images, and prompts that ask for them."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_lab.study.scores.settings import PictureSettings
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.measured import ScorePrompt
from adapter_lab.training.bases import open_base
from adapter_lab.training.dataset import scan

# Leading tags that count who is there, as boorus do.
COUNT = re.compile(r"solo|duo|trio|group|\d+\+?(girl|boy|other)s?|multiple (girls|boys|others)")
# Leading tags are trigger words where few of them lead most captions, each a fair share.
LEAST_SHARE, LEAST_TOGETHER = 0.1, 0.8
NEUTRAL = "neutral"
JOINT = " + "


@dataclass(frozen=True)
class Picture:
    """A training image, its caption, and the concepts that it names."""

    path: Path
    caption: str
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class TrainingFolder:
    """The training images by what they show; without trigger words there is one concept, ""."""

    concepts: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def of(self, about: str) -> list[Picture]:
        """Images of a concept alone, or of several together; those that name it at all where there are none."""
        alone = [picture for picture in self.pictures if JOINT.join(picture.concepts) == about]
        return alone or [picture for picture in self.pictures if set(about.split(JOINT)) <= set(picture.concepts)]


def tags_of(text: str) -> list[str]:
    """The parts of a caption between commas, in lower case."""
    return [tag for part in text.split(",") if (tag := part.strip().lower())]


def named_in(text: str, concepts: Sequence[str]) -> tuple[str, ...]:
    """The concepts whose trigger words stand in a text, in the order of `concepts`; ("",) where there are none."""
    if tuple(concepts) == ("",):
        return ("",)
    return tuple(word for word in concepts if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def find_concepts(captions: Sequence[str]) -> tuple[str, ...]:
    """Trigger words: the first tags, but for counts, if few lead most captions; ("",) if there are none such."""
    first = Counter(next((tag for tag in tags_of(text) if not COUNT.fullmatch(tag)), "") for text in captions)
    found = [tag for tag, count in first.most_common() if tag and count >= LEAST_SHARE * len(captions)]
    covered = sum(first[tag] for tag in found)
    return tuple(found) if found and covered >= LEAST_TOGETHER * len(captions) else ("",)


def training_folder(study: Study, settings: PictureSettings) -> TrainingFolder:
    """The study's training images, without regularisation images and those held out."""
    config = study.shared.dataset
    items = scan(config, config.resolution or open_base(study.shared.base).resolution).items
    found = [(item.path, item.plain_caption) for item in items if not item.is_regularisation]
    concepts = tuple(settings.concepts) or find_concepts([caption for _, caption in found])
    return TrainingFolder(
        concepts, tuple(Picture(path, caption, named_in(caption, concepts)) for path, caption in found)
    )


def prompts_about(folder: TrainingFolder, settings: PictureSettings) -> list[ScorePrompt]:
    """Prompts that ask for what was trained: those given, else captions of the folder, evenly over concepts."""
    texts = list(settings.prompts)
    for concept in folder.concepts if not texts else ():
        captions = sorted({picture.caption for picture in folder.of(concept) if picture.caption})
        texts += random.Random(settings.seed).sample(captions, min(settings.captions, len(captions)))
    return [
        ScorePrompt(text, settings.seed + number, JOINT.join(named_in(text, folder.concepts)))
        for text in dict.fromkeys(texts)
        for number in range(settings.per_prompt)
    ]


def neutral_prompts(settings: PictureSettings) -> list[ScorePrompt]:
    """Prompts about other things."""
    return [
        ScorePrompt(text, settings.seed + number, NEUTRAL)
        for text in settings.neutral
        for number in range(settings.per_prompt)
    ]
