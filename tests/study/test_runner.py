"""Running a study: every variant at equal budget, failures, edits, races, stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab.cli import main
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import read_lines
from adapter_lab.study.analysis.results import load
from adapter_lab.study.record.state import load_state
from adapter_lab.study.running.runner import run
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.definition import Variant
from tests.support.study_runs import BROKEN, LOKR, LORA, InProcess, tiny_study


def states(folder: Path) -> dict[str, str]:
    return {name: entry.state for name, entry in load_state(folder / "state.json").runs.items()}


def said(folder: Path, kind: str) -> list[str]:
    return [event.get("message", "") for event in read_lines(folder / "events.jsonl") if event["event"] == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of a variant that works, one that fails, and one more."""
    folder = tiny_study(tmp_path_factory.mktemp("study"), LORA, BROKEN, LOKR, dataset__validation_fraction=0.2)
    executor = InProcess()
    run(folder, executor)
    return folder, executor


def test_every_variant_is_trained_after_one_preparation_and_a_failed_one_stops_no_other(finished):
    folder, executor = finished
    assert executor.ran == ["preparation", "LoRA-s1", "broken-s1", "LoKr-f2-s1"]
    assert states(folder) == {"LoRA-s1": "done", "broken-s1": "failed", "LoKr-f2-s1": "done"}
    [failed] = [v for v in load(folder).variants if v.state == "failed"]
    assert "missing.safetensors" in failed.why


def test_results_have_every_saving_point_with_its_numbers(finished):
    folder, _ = finished
    lora = load(folder).variant("LoRA")
    assert [(p.point, p.amount, p.steps) for p in lora.points] == [(1, 2, 2), (2, 4, 4), (3, 6, 6)]
    [training] = lora.trainings
    assert [point.adapter.name for point in training.points] == [
        "tiny-LoRA-s1-000002.safetensors",
        "tiny-LoRA-s1-000004.safetensors",
        "tiny-LoRA-s1.safetensors",
    ]
    assert training.points[0].loss == pytest.approx(sum(training.curve.losses[:2]) / 2)
    assert all(point.validation_loss > 0 and point.file_bytes > 1000 for point in training.points)
    assert training.points[-1].rates == {"unet": 0.01}
    assert len(training.curve.steps) == 6 and training.images == 12
    assert lora.seconds_per_step.value > 0 and lora.predicted["trainable_parameters"] > 0


def test_status_tells_every_variant_in_words_and_as_json(finished, capsys):
    folder, _ = finished
    assert main(["study", "status", str(folder)]) == 0
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("Study ")
    assert " ".join(head.split()) == "variant state point steps minutes s/it MiB loss"
    assert [row.split()[:4] for row in rows[:3]] == [
        ["LoRA", "done", "3/3", "6"],
        ["broken", "failed", "0/3", "0"],
        ["LoKr", "f2", "done", "3/3"],
    ]
    assert rows[3].startswith("broken: ") and "missing.safetensors" in rows[3]
    assert main(["study", "status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    lora = load(folder).variant("LoRA")
    assert told["variants"][0]["loss"] == lora.points[-1].loss.value
    assert told["variants"][0]["file_bytes"] == lora.file_bytes
    assert [training["state"] for entry in told["variants"] for training in entry["trainings"]] == [
        "done",
        "failed",
        "done",
    ]
    # Which costs less depends on the machine's load; where none does, none is named.
    named, headline = told["recommendation"]["variant"], told["recommendation"]["headline"]
    assert named in ("LoRA", "LoKr f2") or (named is None and "cannot be told apart" in headline)


def test_no_variant_encodes_what_was_prepared(finished):
    folder, _ = finished
    cached = [e for e in read_lines(folder / "runs" / "LoKr-f2-s1" / "events.jsonl") if e["event"] == "cached"]
    assert [(event["what"], event["made"]) for event in cached] == [("latents", 0), ("captions", 0)]


def test_resuming_tries_failed_variants_again_and_leaves_the_others(finished):
    folder, _ = finished
    again = InProcess()
    run(folder, again)
    assert again.ran == ["preparation", "broken-s1"]


def test_the_same_data_and_noise_for_all(tmp_path):
    twins = [Variant("one", LORA.settings), Variant("two", LORA.settings)]
    folder = tiny_study(tmp_path, *twins)
    run(folder, InProcess())
    one, two = load(folder).variants
    assert one.trainings[0].curve.losses == two.trainings[0].curve.losses


def test_an_edited_plan_takes_up_new_variants_and_refuses_changed_ones_by_name(tmp_path):
    folder = tiny_study(tmp_path, LORA, budget__amount=2.0, budget__points=1)
    run(folder, InProcess())
    study = study_file.load(folder / "study.toml")
    study.variants.append(LOKR)
    study_file.write(study, folder / "study.toml")
    executor = InProcess()
    run(folder, executor)
    assert executor.ran == ["preparation", "LoKr-f2-s1"]
    study.variants[0] = Variant("LoRA", {**LORA.settings, "network.dim": 8})
    study_file.write(study, folder / "study.toml")
    with pytest.raises(AdapterLabError, match=r"LoRA: network\.dim 4 -> 8"):
        run(folder, InProcess())


def test_an_edit_while_the_study_runs_is_said(tmp_path):
    folder = tiny_study(tmp_path, LORA, budget__amount=2.0, budget__points=1)

    def edit(event):
        if event["event"] == "training":
            with (folder / "study.toml").open("a") as file:
                file.write("\n# edited\n")

    run(folder, InProcess(), edit)
    assert any("was changed while the study runs" in message for message in said(folder, "note"))


def test_what_will_not_fit_is_marked_before_the_start(tmp_path):
    folder = tiny_study(tmp_path, LORA, budget__amount=2.0, budget__points=1)
    executor = InProcess(memory=1000)
    run(folder, executor)
    assert executor.ran == []
    assert states(folder) == {"LoRA-s1": "skipped"}
    assert "GB of memory" in load(folder).variants[0].why
    run(folder, executor, try_all=True)
    assert states(folder) == {"LoRA-s1": "done"}


def test_a_stop_is_obeyed_and_the_study_goes_on_later(tmp_path):
    folder = tiny_study(tmp_path, LORA, LOKR, budget__amount=2.0, budget__points=1)

    def stop(event):
        if event["event"] == "done":
            (folder / "stop").touch()

    assert not run(folder, InProcess(), stop).finished
    assert states(folder) == {"LoRA-s1": "done", "LoKr-f2-s1": "queued"}
    assert run(folder, InProcess()).finished
    assert set(states(folder).values()) == {"done"}


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A race with a variant that cannot learn."""
    still = Variant("still", {**LORA.settings, "optimizer.lr": 1e-12})
    folder = tiny_study(
        tmp_path_factory.mktemp("race"),
        LORA,
        still,
        race__enabled=True,
        race__metric="loss",
        race__confidence=0.5,
        general__seeds=[1, 2, 3],
        budget__amount=20.0,
        budget__points=2,
        optimizer__lr=0.05,
    )
    run(folder, InProcess())
    return folder


def test_a_race_drops_what_is_behind_says_why_and_gives_its_budget_to_the_others(raced):
    state = json.loads((raced / "state.json").read_text())
    assert [(d["variant"], d["point"]) for d in state["decisions"]] == [("still", 1)]
    assert "standard errors" in state["decisions"][0]["why"]
    results = load(raced)
    assert results.variant("still").state == "dropped"
    assert results.decisions[0].why in results.variant("still").why
    # Two variants with two points each: what one leaves after its first is a third for the other.
    assert [len(results.variant(name).points) for name in ("LoRA", "still")] == [3, 1]
    assert results.variant("LoRA").trainings[0].steps == 30


def test_a_race_resumed_after_its_end_changes_nothing(raced):
    before = (raced / "state.json").read_text()
    executor = InProcess()
    run(raced, executor)
    assert executor.ran == ["preparation"] or executor.ran == []
    assert (raced / "state.json").read_text() == before
