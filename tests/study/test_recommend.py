"""What is recommended, on results whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_lab.comparing.evidence import joined
from adapter_lab.study.analysis.recommend import recommend
from adapter_lab.study.analysis.results import Mean, Results
from adapter_lab.study.record.state import Decision
from tests.support.study_results import NO_CURVE, make_results, replaced, summarised


def study(folder: Path, offsets: Mapping[str, float], noise: float = 0.01, **options: object) -> Results:
    """Variants whose fidelity rises over three points to 0.6 and their offset."""

    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        draw = random.Random(f"{name}{point}{seed}{picture}").gauss
        return {"fidelity": 0.3 + 0.1 * point + offsets[name] + draw(0, noise), "drift": 0.1 + draw(0, noise)}

    return make_results(folder, list(offsets), measure, **options)  # type: ignore[arg-type]


def said(found: list[str], words: str) -> bool:
    """Whether one of the sentences has these words."""
    return any(words in sentence for sentence in found)


def test_a_clearly_better_variant_is_recommended_at_its_best_step(tmp_path: Path) -> None:
    found = recommend(study(tmp_path, {"LoRA": 0.0, "LoKr": 0.2}))
    assert (found.variant, found.point) == ("LoKr", 3)
    assert found.headline == "Use LoKr at step 300."
    assert said(found.reasons, "Measurably behind LoKr: LoRA (−")
    assert not said(found.reasons, "cannot be told apart from LoRA")
    assert said(found.cautions, "larger budget may bring more")
    assert found.adapter is not None and found.adapter.name.endswith("-000300.safetensors")


def test_a_tie_leads_and_the_cheaper_is_named(tmp_path: Path) -> None:
    costs = {"dear": (1.0, 200, 100), "cheap": (1.0, 200, 50)}
    found = recommend(study(tmp_path, {"dear": 0.002, "cheap": 0.0}, noise=0.05, costs=costs))
    assert found.ranking[0].variant == "dear" and found.variant == "cheap"
    assert found.headline == ("dear and cheap cannot be told apart by quality. cheap at step 300 costs least of them.")
    assert said(found.reasons, "More than 50 training seeds would be needed to tell them apart")
    assert said(found.reasons, "dear has the highest quality")
    assert said(found.reasons, "cannot be told apart from it and needs 50% less file size")
    assert said(found.wasteful, "dear costs more without measuring better: cheap cannot be told apart from it")


def test_a_tie_at_the_same_cost_recommends_neither(tmp_path: Path) -> None:
    found = recommend(study(tmp_path, {"a": 0.0, "b": 0.0}, noise=0.05))
    assert (found.variant, found.point, found.adapter) == (None, None, None)
    assert found.headline.endswith("cannot be told apart by quality.")
    assert not found.wasteful


def test_of_a_tie_those_that_measured_lower_are_not_part(tmp_path: Path) -> None:
    found = recommend(study(tmp_path, {"a": 0.2, "b": 0.2, "c": 0.0}))
    assert found.headline in ("a and b cannot be told apart by quality; the other measured lower.",
                              "b and a cannot be told apart by quality; the other measured lower.")  # fmt: skip
    assert said(found.reasons, "Measurably behind") and not said(found.reasons, "Use")


def test_a_better_variant_is_worth_its_cost(tmp_path: Path) -> None:
    costs = {"dear": (2.0, 400, 100), "cheap": (1.0, 200, 50)}
    found = recommend(study(tmp_path, {"dear": 0.2, "cheap": 0.0}, costs=costs))
    assert found.variant == "dear"
    assert not found.wasteful


def test_what_saves_here_and_costs_there_is_no_waste(tmp_path: Path) -> None:
    costs = {"small": (1.5, 100, 50), "fast": (1.0, 100, 100)}
    assert not recommend(study(tmp_path, {"small": 0.0, "fast": 0.0}, noise=0.05, costs=costs)).wasteful


def test_training_on_that_makes_it_worse_is_said(tmp_path: Path) -> None:
    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        return {"fidelity": {1: 0.5, 2: 0.9, 3: 0.6}[point] + random.Random(f"{point}{seed}{picture}").gauss(0, 0.01)}

    found = recommend(make_results(tmp_path, ["a", "b"], measure))
    assert found.point is None  # the types tie, the steps do not
    for name in ("a", "b"):
        assert said(found.reasons, f"Training {name} on from step 200 to step 300 made it measurably worse (−")
    assert not said(found.cautions, "larger budget")


def test_steps_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{point}{seed}{picture}").gauss(0, 0.03)
        return {"fidelity": {1: 0.2, 2: 0.799, 3: 0.8}[point] + noise + (0.001 if (point, name) == (3, "a") else 0)}

    found = recommend(make_results(tmp_path, ["a"], measure, pictures=20))
    other = {2: 300, 3: 200}[found.point or 0]
    assert said(found.reasons, f"Step {other} of a cannot be told apart" if other == 200 else "brought nothing")
    assert not said(found.reasons, "Step 100 of")


def test_drift_counts_against_likeness(tmp_path: Path) -> None:
    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{point}{seed}{picture}").gauss(0, 0.01)
        return {"fidelity": (0.8 if name == "wild" else 0.78) + noise - 0.5 * (name == "weak"),
                "drift": (0.6 if name == "wild" else 0.1) + noise}  # fmt: skip

    found = recommend(make_results(tmp_path, ["wild", "tame", "weak"], measure))
    assert found.variant == "tame"
    assert found.ranking[-1].variant != "tame" and not found.ranking[1].tied


def test_noise_is_not_blown_up_to_a_full_scale(tmp_path: Path) -> None:
    """Drift is the same for all but for noise; min-max scaling would let it decide."""

    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{point}{seed}{picture}").gauss(0, 0.01)
        return {"fidelity": {"a": 0.5, "b": 0.8}[name], "drift": 0.1 + noise}

    found = recommend(make_results(tmp_path, ["a", "b"], measure, pictures=4, points=1))
    assert found.variant == "b"
    assert found.ranking[1].to_best is not None and found.ranking[1].to_best.told_apart


def test_what_a_seed_does_to_all_variants_makes_no_metric_noise(tmp_path: Path) -> None:
    """Drift differs little among variants and much among seeds, alike for all; it still decides between equals."""

    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{point}{seed}{picture}").gauss(0, 0.001)
        return {"fidelity": 0.5 + noise, "drift": {"a": 0.1, "b": 0.12}[name] + 0.2 * seed + noise}

    found = recommend(make_results(tmp_path, ["a", "b"], measure, points=1))
    assert found.variant == "a"
    assert found.ranking[1].to_best is not None and found.ranking[1].to_best.told_apart


def test_one_seed_never_ranks_types_but_may_tell_files_apart(tmp_path: Path) -> None:
    found = recommend(study(tmp_path, {"a": 0.0, "b": 0.2}, seeds=(1,)))
    assert found.headline == (
        "Which type is better cannot be told: each was trained once. Of these files, that of b at step 300 measured "
        "best over its images."
    )
    assert found.variant == "b" and found.adapter is not None
    assert said(found.reasons, "What would tell: two or more training seeds")
    assert found.ranking[0].quality.over == "image seeds" and found.ranking[0].quality.error
    assert all(entry.tied for entry in found.ranking)
    assert said(found.cautions, "Each variant was trained once, so the uncertainty is that over images")


def test_one_seed_and_one_picture_tell_nothing_apart(tmp_path: Path) -> None:
    found = recommend(study(tmp_path, {"a": 0.0, "b": 0.2}, noise=0.0, seeds=(1,), pictures=1))
    assert found.variant is None
    assert found.headline == "b and a cannot be told apart by quality."
    assert said(found.cautions, "the uncertainty is unknown")
    assert found.ranking[1].to_best is not None and found.ranking[1].to_best.interval is None


def test_training_losses_recommend_nothing(tmp_path: Path) -> None:
    """Twenty steps, one seed, no scores: three losses that differ by the noise their steps drew."""
    results = make_results(tmp_path, ["LoRA", "LoKr", "diag-OFT"], lambda *_: {}, seeds=(1,), points=2)
    for number, name in enumerate(["LoRA", "LoKr", "diag-OFT"]):
        (training,) = results.variant(name).trainings
        points = [replace(point, loss=0.1 + 1e-4 * number) for point in training.points]
        variant = replace(results.variant(name), trainings=[replace(training, points=points)])
        results = replaced(results, name, trainings=variant.trainings, points=summarised(variant).points)
    found = recommend(results)
    assert (found.variant, found.point, found.ranking) == (None, None, [])
    assert found.headline.startswith("Nothing can be recommended: only training losses were measured.")
    assert said(found.reasons, "What would tell: two or more training seeds")
    assert said(found.reasons, "a validation loss (dataset.validation_fraction)")


def test_losses_of_variants_that_measure_them_otherwise_are_not_compared(tmp_path: Path) -> None:
    settings = {"mse": {}, "huber": {"loss.type": "huber"}}
    results = make_results(tmp_path, list(settings), lambda *_: {}, settings=settings,
                           losses=lambda name, point, seed: {"mse": 0.2, "huber": 0.1}[name])  # fmt: skip
    found = recommend(results)
    assert found.variant is None
    assert "the variants differ in loss.type, which changes what their validation losses measure" in found.headline


@pytest.mark.parametrize("busy", ["apart", "at once"])
def test_a_time_that_others_slowed_is_no_reason(tmp_path: Path, busy: str) -> None:
    costs = {"slow": (2.0, 100, 10), "fast": (1.0, 100, 10)}
    results = study(tmp_path, {"slow": 0.0, "fast": 0.0}, noise=0.05, costs=costs)
    for index, name in enumerate(costs):
        spans = [(100.0 * index, 100.0 * index + (150.0 if busy == "at once" else 90.0))]
        trainings = [replace(t, busy=[(a + 1000 * t.seed, b + 1000 * t.seed) for a, b in spans])
                     for t in results.variant(name).trainings]  # fmt: skip
        results = replaced(results, name, trainings=trainings)
    assert ("training time" in " ".join(recommend(results).wasteful)) == (busy == "apart")


def test_a_time_measured_once_is_no_reason(tmp_path: Path) -> None:
    costs = {"slow": (2.0, 100, 10), "fast": (1.0, 100, 10)}
    found = recommend(study(tmp_path, {"slow": 0.0, "fast": 0.0}, noise=0.05, costs=costs, seeds=(1,)))
    assert found.variant is None and not found.wasteful


def test_without_scores_the_validation_loss_decides_with_a_caution(tmp_path: Path) -> None:
    losses = {"a": 0.2, "b": 0.1}
    results = make_results(tmp_path, ["a", "b"], lambda *_: {},
                           losses=lambda name, point, seed: losses[name] - 0.01 * point + 0.001 * seed)  # fmt: skip
    found = recommend(results)
    assert (found.variant, found.point) == ("b", 3)
    assert said(found.cautions, "No images were scored: this rests on the validation loss alone")
    assert said(found.not_measured, "Likeness to the training images: no scorer measured it.")
    assert not said(found.not_measured, "Validation loss")


def test_nothing_measured_recommends_nothing(tmp_path: Path) -> None:
    found = recommend(make_results(tmp_path, ["a", "b"], lambda *_: {}))
    assert found.variant is None and found.point is None
    assert "Nothing can be recommended" in found.headline
    assert said(found.not_measured, "Validation loss: no images were held out")


def test_a_study_without_any_point_recommends_nothing(tmp_path: Path) -> None:
    results = study(tmp_path, {"a": 0.0})
    trainings = [replace(training, points=[], curve=NO_CURVE) for training in results.variant("a").trainings]
    results = replaced(results, "a", trainings=trainings, points=[], state="queued")
    found = recommend(replace(results, state="queued"))
    assert found.variant is None
    assert said(found.not_measured, "a: nothing of it has been saved yet (queued).")


def test_failed_and_dropped_variants_are_named_and_never_hidden(tmp_path: Path) -> None:
    results = study(tmp_path, {"good": 0.2, "slow": 0.0, "broken": 0.0})
    broken = [replace(training, points=[], curve=NO_CURVE) for training in results.variant("broken").trainings]
    results = replaced(results, "broken", trainings=broken, points=[], state="failed", why="Out of memory: buy more.")
    slow = results.variant("slow")
    cut = replace(slow, trainings=[replace(t, points=t.points[:1]) for t in slow.trainings], state="dropped")
    results = replaced(results, "slow", trainings=cut.trainings, points=summarised(cut).points, state="dropped")
    results = replace(results, decisions=[Decision("slow", 1, 0.0, "behind")])
    found = recommend(results)
    assert found.variant == "good"
    assert said(found.cautions, "broken failed: Out of memory: buy more.")
    assert said(found.cautions, "slow was dropped by the race after checkpoint 1")
    assert [entry.variant for entry in found.ranking] == ["good", "slow"]


def test_a_failure_with_saved_points_is_compared_and_said(tmp_path: Path) -> None:
    results = replaced(study(tmp_path, {"a": 0.2, "b": 0.0}), "a", state="failed", why="The disk is full.")
    found = recommend(results)
    assert found.variant == "a"
    assert said(found.cautions, "a failed after 300 steps: The disk is full.")


def test_a_base_that_is_as_good_is_said(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a"], lambda *_: {"fidelity": 0.4, "agreement": 0.5})
    base = {("fidelity", ""): Mean(0.5), ("agreement", ""): Mean(0.9)}
    found = recommend(replace(results, base=base))
    assert found.variant is None and "the base model without one is at least as good" in found.headline
    base = {("fidelity", ""): Mean(0.1), ("agreement", ""): Mean(0.5)}
    assert "base model" not in recommend(replace(results, base=base)).headline


def test_while_trainings_are_open_nothing_is_recommended(tmp_path: Path) -> None:
    """Two of three have ended, and one of them measured far better."""
    results = replaced(study(tmp_path, {"a": 0.0, "b": 0.3, "c": 0.0}), "c", state="running")
    trainings = [replace(training, state="running") for training in results.variant("c").trainings]
    found = recommend(replace(replaced(results, "c", trainings=trainings), state="running"))
    assert (found.variant, found.adapter, found.reasons, found.wasteful) == (None, None, [], [])
    assert found.headline == "Nothing is recommended yet: 6 of 9 trainings have ended."
    assert found.ranking[0].variant == "b"  # the tables show what was measured so far


def test_files_without_scores_are_counted(tmp_path: Path) -> None:
    results = study(tmp_path, {"a": 0.0})
    first, *others = results.variant("a").trainings
    blank = replace(first, points=[replace(point, values=[]) for point in first.points])
    found = recommend(replaced(results, "a", trainings=[blank, *others]))
    assert said(found.not_measured, "a: 3 of its 9 files are not scored.")


def test_one_changed_setting_is_contrasted_over_later_points(tmp_path: Path) -> None:
    settings = {
        "LoRA": {"network.algo": "lora", "network.dim": 16},
        "LoRA+TE": {"network.algo": "lora", "network.dim": 16, "network.train_te": True},
        "big": {"network.algo": "lora", "network.dim": 32, "network.train_te": True},
        "LoHa": {"network.algo": "loha", "network.dim": 16},
    }
    found = recommend(study(tmp_path, dict.fromkeys(settings, 0.0) | {"LoRA+TE": 0.1}, settings=settings))
    pairs = {(contrast.before, contrast.after): contrast for contrast in found.contrasts}
    assert set(pairs) == {("LoRA", "LoRA+TE"), ("LoRA+TE", "big")}  # another algorithm is no single setting
    contrast = pairs["LoRA", "LoRA+TE"]
    assert (contrast.setting, contrast.values) == ("network.train_te", (False, True))
    assert contrast.changes["fidelity"].told_apart
    assert contrast.changes["fidelity"].value == pytest.approx(0.1, abs=0.02)
    assert not contrast.changes["drift"].told_apart


@pytest.mark.parametrize(("words", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_joined(words: list[str], text: str) -> None:
    assert joined(words) == text
