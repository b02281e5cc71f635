"""Results of studies that never ran: values given by formulas, for the report and the recommendation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from PIL import Image, ImageDraw

from adapter_lab.study.analysis.results import Curve, Mean, PointSummary, Results, SavedPoint, Training, VariantResult
from adapter_lab.study.pictures.store import picture_name, write_index
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.spec.definition import Budget, General, Study, Variant, run_name
from adapter_lab.study.spec.measured import ScorePrompt, Value

MIB = 2**20
# (variant, point, training seed, image seed) -> value by metric
Measure = Callable[[str, int, int, int], Mapping[str, float]]
NO_CURVE = Curve([], [], [], [], [])


def make_results(
    folder: Path,
    names: Sequence[str],
    measure: Measure,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    pictures: int = 8,
    points: int = 3,
    costs: Mapping[str, tuple[float, int, int]] | None = None,
    losses: Callable[[str, int, int], float] | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> Results:
    """A finished study whose images have the values that `measure` gives.

    `costs` are (seconds per step, peak MiB, file MiB) by variant; `losses` gives validation losses.
    """
    study = Study(General("made", list(seeds)), Budget("steps", 100.0 * points, points), scores={"made": {}})
    study.variants = [Variant(name, dict((settings or {}).get(name, {}))) for name in names]
    variants = []
    for variant in study.variants:
        cost = (costs or {}).get(variant.name, (1.0, 100, 10))
        trainings = [_training(folder, variant, seed, measure, pictures, points, cost, losses) for seed in seeds]
        variants.append(summarised(VariantResult(variant, "done", "", trainings, [], Mean(cost[0]), cost[1] * MIB,
                                                 cost[2] * MIB, {"trainable_parameters": 1000}, [])))  # fmt: skip
    return Results(study, folder, variants, {}, [], "done")


def summarised(variant: VariantResult) -> VariantResult:
    """The variant with the summaries of its trainings' points."""
    numbers = sorted({point.point for training in variant.trainings for point in training.points})
    return replace(variant, points=[_summary(variant, number) for number in numbers])


def replaced(results: Results, name: str, **changes: object) -> Results:
    """The results with something else about one variant."""
    variants = [
        replace(entry, **changes) if entry.variant.name == name else entry  # type: ignore[arg-type]
        for entry in results.variants
    ]
    return replace(results, variants=variants)


def draw_pictures(results: Results, prompts: Sequence[ScorePrompt], size: int = 128) -> None:
    """An image for every prompt of every file and of the base, whose colours tell them apart."""
    folder = StudyFolder(results.folder)
    files = [(t.name, p.step) for v in results.variants for t in v.trainings for p in t.points]
    for name, step in [("base", 0), *files]:
        place = folder.pictures(name, step)
        place.mkdir(parents=True)
        for number, prompt in enumerate(prompts):
            rng = random.Random(f"{name}{prompt.text}")
            picture = Image.new("RGB", (size, size), tuple(rng.randrange(90, 230) for _ in range(3)))
            ImageDraw.Draw(picture).ellipse((20, 20, 40 + step // 8, 40 + step // 8), "white")
            picture.save(place / picture_name(number, prompt))
        write_index(place, {"file": name}, prompts)


def _training(
    folder: Path,
    variant: Variant,
    seed: int,
    measure: Measure,
    pictures: int,
    points: int,
    cost: tuple[float, int, int],
    losses: Callable[[str, int, int], float] | None,
) -> Training:
    name, saved = run_name(variant, seed), []
    for point in range(1, points + 1):
        values = [
            Value(metric, value, picture)
            for picture in range(pictures)
            for metric, value in measure(variant.name, point, seed, picture).items()
        ]
        loss = losses(variant.name, point, seed) if losses else None
        step = 100 * point
        minutes = step * cost[0] / 60
        saved.append(SavedPoint(point, step, step, minutes, step * 2, loss and loss * 0.9, loss, {"unet": 1e-4},
                                Path(f"{name}-{step:06d}.safetensors"), cost[2] * MIB, values))  # fmt: skip
    steps = list(range(1, 100 * points + 1, 5))
    rng = random.Random(name)
    shape = [0.1 + 0.1 * math.exp(-step / 80) + rng.gauss(0, 0.02) for step in steps]
    curve = Curve(
        steps, [step * cost[0] / 60 for step in steps], shape, [1e-6 * (1 + step) for step in steps],
        [(point.step, point.minutes, point.validation_loss) for point in saved if point.validation_loss is not None],
    )  # fmt: skip
    return Training(name, variant.name, seed, folder / "runs" / name, "done", "", 1, 100 * points, saved[-1].minutes,
                    200 * points, cost[0], cost[1] * MIB, 0.1, saved, curve)  # fmt: skip


def _summary(variant: VariantResult, number: int) -> PointSummary:
    points = [point for training in variant.trainings for point in training.points if point.point == number]
    metrics = {value.metric for point in points for value in point.values}
    scores = {(metric, ""): _score(points, metric) for metric in metrics}
    first = points[0]
    return PointSummary(
        number, first.amount, fmean(p.step for p in points), fmean(p.minutes for p in points),
        fmean(p.images for p in points), _mean([p.loss for p in points if p.loss is not None]),
        _mean([p.validation_loss for p in points if p.validation_loss is not None]), scores,
    )  # fmt: skip


def _score(points: Sequence[SavedPoint], metric: str) -> Mean:
    values = [[value.value for value in point.values if value.metric == metric] for point in points]
    if len(points) > 1:
        return _mean([fmean(entry) for entry in values]) or Mean(0.0)
    return replace(_mean(values[0]) or Mean(0.0), over="image seeds")


def _mean(values: Sequence[float]) -> Mean | None:
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(fmean(values), error, len(values))
