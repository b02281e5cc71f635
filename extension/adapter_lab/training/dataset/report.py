"""The report on a training folder that is shown before training starts."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapter_lab.errors import visible
from adapter_lab.training.dataset.plan import epoch_uses
from adapter_lab.training.dataset.samples import Item

if TYPE_CHECKING:
    from adapter_lab.training.dataset.dataset import Dataset

_TOP_TAGS = 20
_SHOWN_SKIPPED = 50
_SHOWN_WITHOUT_CAPTION = 10
_EXAMPLES = 16
_WIDTH = 100


@dataclass(frozen=True)
class FolderLine:
    """One folder: its images, repeats, training resolution (px), and whether they are regularisation images."""

    name: str
    path: str
    pictures: int
    repeats: int
    regularisation: bool
    resolution: int


@dataclass(frozen=True)
class BucketLine:
    """One bucket: its size (pixels), images, uses of them per epoch, and batches."""

    width: int
    height: int
    pictures: int
    uses: int
    batches: int


@dataclass(frozen=True)
class DatasetReport:
    """What a person should know about a training folder; `to_dict` for programs, `text` for a terminal.

    `examples`: (path, caption) of a few images from all over the folder, for a page that shows them.
    """

    resolution: int
    pictures: int
    regularisation_pictures: int
    held_out: list[str]
    folders: list[FolderLine]
    buckets: list[BucketLine]
    kept_by_cropping: float
    batch_size: int
    gradient_accumulation: int
    uses_per_epoch: int
    batches_per_epoch: int
    steps_per_epoch: int
    without_caption: list[tuple[str, str]]
    masked_pictures: int
    top_tags: list[tuple[str, int]]
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    warnings: list[str]
    examples: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)

    def text(self) -> str:
        """The report for a terminal, at most 100 columns but for long paths."""
        lines = [*self._pictures(), *self._steps(), *self._buckets(), *self._captions(), *self._problems()]
        return "\n".join(map(visible, lines)) + "\n"

    def _pictures(self) -> Iterable[str]:
        also = [
            (self.regularisation_pictures, "for regularisation"),
            (len(self.held_out), "held out for validation"),
            (self.masked_pictures, "with a loss mask"),
        ]
        yield f"Images     {', '.join([str(self.pictures)] + [f'{count} {what}' for count, what in also if count])}"
        width = max((len(line.name) for line in self.folders), default=0)
        for line in self.folders:
            kind = "  regularisation" if line.regularisation else ""
            times = f"x {line.repeats} per epoch" if line.repeats != 1 else ""
            size = f"  at {line.resolution} px" if len(self._resolutions()) > 1 else ""
            yield f"  {line.name:<{width}}  {line.pictures:>6} {times}{kind}{size}".rstrip()

    def _resolutions(self) -> list[int]:
        return sorted({line.resolution for line in self.folders})

    def _steps(self) -> Iterable[str]:
        batches = f"{_count(self.uses_per_epoch, 'use')} in {_count(self.batches_per_epoch, 'batch', 'batches')}"
        size = f"of up to {self.batch_size}" if self.batch_size > 1 else "of 1"
        accumulated = f", {self.gradient_accumulation} batches a step" if self.gradient_accumulation > 1 else ""
        yield f"Epoch      {_count(self.steps_per_epoch, 'step')} ({batches} {size}{accumulated})"

    def _buckets(self) -> Iterable[str]:
        yield (
            f"Buckets    {len(self.buckets)} at resolution {' and '.join(map(str, self._resolutions()))}; "
            f"cropping leaves {100 * self.kept_by_cropping:.1f}% of the images on average"
        )
        for line in self.buckets:
            size = f"{line.width} x {line.height}"
            yield f"  {size:<12} {_count(line.pictures, 'image'):>15} {_count(line.batches, 'batch', 'batches'):>15}"

    def _captions(self) -> Iterable[str]:
        if self.top_tags:
            tags = ", ".join(f"{tag} {count}" for tag, count in self.top_tags)
            yield from textwrap.wrap(f"Top tags   {tags}", _WIDTH, subsequent_indent=" " * 11)
        if self.without_caption:
            yield f"Captions   {_count(len(self.without_caption), 'image')} without a caption"
            lines = [f"{path}: trained as {caption!r}" for path, caption in self.without_caption]
            yield from _some(lines, _SHOWN_WITHOUT_CAPTION)

    def _problems(self) -> Iterable[str]:
        if self.skipped:
            yield f"Skipped    {_count(len(self.skipped), 'file')}"
            yield from _some([f"{path}: {reason}" for path, reason in self.skipped], _SHOWN_SKIPPED)
        if self.ignored:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.ignored.items())
            yield from textwrap.wrap(f"Ignored    other files: {kinds}", _WIDTH, subsequent_indent=" " * 11)
        if self.warnings:
            yield "Warnings"
            for warning in self.warnings:
                yield from textwrap.wrap(
                    f"- {warning}", _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip


def make_report(dataset: Dataset, batch_size: int, gradient_accumulation: int) -> DatasetReport:
    """The report on `dataset` for training with this batch size and gradient accumulation."""
    uses = epoch_uses(dataset.items, 0, 0)
    buckets = [
        BucketLine(width, height, pictures, count, math.ceil(count / batch_size))
        for (width, height), (pictures, count) in dataset.bucket_counts().items()
    ]
    batches = sum(line.batches for line in buckets)
    regularisation = sum(item.is_regularisation for item in dataset.items)
    return DatasetReport(
        resolution=dataset.resolution,
        pictures=len(dataset.items) - regularisation,
        regularisation_pictures=regularisation,
        held_out=[item.key for item in dataset.held_out],
        folders=_folders(dataset.items),
        buckets=buckets,
        kept_by_cropping=sum(item.placement.kept for item in dataset.items) / len(dataset.items),
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        uses_per_epoch=sum(len(group) for group in uses.values()),
        batches_per_epoch=batches,
        steps_per_epoch=math.ceil(batches / gradient_accumulation),
        without_caption=[(str(item.path), item.plain_caption) for item in dataset.items if not item.has_caption],
        masked_pictures=sum(item.has_mask for item in dataset.items),
        top_tags=list(dataset.tag_counts().items())[:_TOP_TAGS],
        skipped=[(str(path), reason) for path, reason in dataset.skipped],
        ignored=dict(dataset.ignored),
        warnings=list(dataset.warnings),
        examples=_examples(dataset.items),
    )


def _examples(items: Sequence[Item]) -> list[tuple[str, str]]:
    every = max(1, len(items) / _EXAMPLES)
    chosen = [items[int(index * every)] for index in range(min(_EXAMPLES, len(items)))]
    return [(str(item.path), item.plain_caption if item.has_caption else "") for item in chosen]


def _folders(items: Sequence[Item]) -> list[FolderLine]:
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.source.label, item.folder), []).append(item)
    return [
        FolderLine(
            name=folder,
            path=str(group[0].source.root),
            pictures=len(group),
            repeats=group[0].repeats,
            regularisation=group[0].is_regularisation,
            resolution=group[0].source.resolution,
        )
        for (_, folder), group in groups.items()
    ]


def _some(lines: Sequence[str], most: int) -> Iterable[str]:
    for line in lines[:most]:
        yield f"  {line}"
    if len(lines) > most:
        yield f"  ... and {len(lines) - most} more (all with --json)"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
