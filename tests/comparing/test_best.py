"""The best step, by what was recorded; study folders whole, unfinished and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapter_lab.adapters.library import Library, Run
from adapter_lab.comparing.best import Records
from adapter_lab.comparing.cell import FILE, STEP, STUDY, TYPE, Cell
from adapter_lab.comparing.grid import Grid
from adapter_lab.comparing.pool import Pool
from adapter_lab.comparing.studies import adapter_files, studies_in
from adapter_lab.errors import AdapterLabError

QUERY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
STEPS = (100, 200, 300)


def make_run(folder: Path, adapters: Path, name: str, rank: int, losses: dict[int, float]) -> None:
    """A run folder with its events, and the files it saved."""
    folder.mkdir(parents=True)
    adapters.mkdir(parents=True, exist_ok=True)
    events = [{"event": "started"}]
    for step in STEPS:
        path = adapters / f"{name}-{step:06d}.safetensors"
        down, up = torch.zeros(rank, 320), torch.zeros(320, rank)
        save_file(
            {f"{QUERY}.lora_down.weight": down, f"{QUERY}.lora_up.weight": up},
            path,
            {"ss_steps": str(step), "adapter_lab.run": folder.name},
        )
        if step in losses:
            events.append({"event": "validation", "step": step, "loss": losses[step]})
        events.append({"event": "saved", "step": step, "path": str(path)})
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(text + '{"event": "torn')


def only_run(adapters: Path) -> Run:
    (run,) = Library().scan([adapters]).runs
    return run


def test_the_least_validation_loss_is_best(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "lucy-1", tmp_path / "Lora", "lucy", 2, {100: 0.3, 200: 0.1, 300: 0.2})
    run = only_run(tmp_path / "Lora")
    assert Records([tmp_path / "runs"]).best(run).entry.lineage.step == 200
    with pytest.raises(AdapterLabError, match="Nothing was recorded that says which step of lucy is best"):
        Records([tmp_path / "nowhere"]).best(run)


def test_a_studys_scores_come_before_validation(tmp_path: Path) -> None:
    study = tmp_path / "studies" / "eleven"
    make_run(study / "runs" / "lora-s1", tmp_path / "Lora", "eleven-lora-s1", 2, {100: 0.1, 200: 0.2, 300: 0.3})
    (study / "study.toml").write_text("")
    folder = study / "scores" / "lora-s1"
    folder.mkdir(parents=True)
    for step, fidelity, drift in ((100, 0.2, 0.1), (200, 0.9, 0.2), (300, 0.95, 0.9)):
        values = [{"metric": "fidelity", "value": fidelity}, {"metric": "drift", "value": drift}]
        (folder / f"{step}.json").write_text(json.dumps({"toy": {"values": values}}))
    (folder / "400.json").write_text("{broken")
    records = Records([], studies_in([tmp_path / "studies"]))
    assert records.best(only_run(tmp_path / "Lora")).entry.lineage.step == 200


def write_scores(study: Path, name: str, fidelity: dict[int, list[float]]) -> None:
    """Measurements of fidelity of each file, a value for each image seed."""
    folder = study / "scores" / name
    folder.mkdir(parents=True)
    for step, values in fidelity.items():
        found = [{"metric": "fidelity", "value": value, "seed": seed} for seed, value in enumerate(values)]
        (folder / f"{step}.json").write_text(json.dumps({"toy": {"values": found}}))


@pytest.mark.parametrize(
    ("fidelity", "label"),
    [
        ({100: [0.2, 0.3, 0.1], 200: [0.9, 0.8, 0.91], 300: [0.3, 0.4, 0.2]}, "200"),
        ({100: [0.2, 0.3, 0.1], 200: [0.9, 0.8, 0.91], 300: [0.8, 0.9, 0.90]}, "200; 300 as good"),
        ({100: [0.88, 0.82, 0.9], 200: [0.9, 0.8, 0.91], 300: [0.8, 0.9, 0.90]}, "200; 2 others as good"),
        ({100: [0.2], 200: [0.9], 300: [0.3]}, "200, measured once"),
    ],
)
def test_the_label_of_best_says_what_is_as_good(tmp_path: Path, fidelity: dict[int, list[float]], label: str) -> None:
    study = tmp_path / "studies" / "eleven"
    make_run(study / "runs" / "lora-s1", tmp_path / "Lora", "eleven-lora-s1", 2, {})
    (study / "study.toml").write_text("")
    write_scores(study, "lora-s1", fidelity)
    found = Records([], studies_in([tmp_path / "studies"])).best(only_run(tmp_path / "Lora"))
    assert found.label == label


def test_a_least_validation_loss_is_called_measured_once(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "lucy-1", tmp_path / "Lora", "lucy", 2, {100: 0.3, 200: 0.1, 300: 0.2})
    shelf = Library().scan([tmp_path / "Lora"])
    grid = Grid(Pool(shelf), Records([tmp_path / "runs"]), (TYPE, STEP))
    grid.set_values(TYPE, ["LoRA"])
    assert grid.set_values(STEP, ["best"]) == ["best"]
    assert grid.label(STEP, "best") == "best (200, measured once)"


def test_damaged_study_folders_are_no_error(tmp_path: Path) -> None:
    for name, text in (("empty", ""), ("binary", "\x00\x01"), ("list", "[1, 2]\n")):
        run = tmp_path / name / "runs" / "a"
        run.mkdir(parents=True)
        (run / "events.jsonl").write_text(text)
        (tmp_path / name / "state.json").write_text("{")
    (tmp_path / "bare").mkdir()
    found = studies_in([tmp_path, tmp_path / "nowhere"])
    assert list(found) == ["binary", "empty", "list"]
    assert all(adapter_files(folder) == [] for folder in found.values())


def study_grid(tmp_path: Path, *axes: str) -> Grid:
    for study in ("one", "two"):
        for name, rank in (("small", 2), ("large", 8)):
            folder = tmp_path / "studies" / study
            make_run(folder / "runs" / f"{name}-s1", tmp_path / "Lora", f"{study}-{name}-s1", rank, {})
            (folder / "state.json").write_text("{}")
    folders = studies_in([tmp_path / "studies"])
    files = {name: adapter_files(folder) for name, folder in folders.items()}
    return Grid(Pool(Library().scan([tmp_path / "Lora"]), studies=files), Records([], folders), axes)


def test_a_study_alone_is_each_of_its_trainings(tmp_path: Path) -> None:
    grid = study_grid(tmp_path, STUDY)
    values = grid.set_values(STUDY, ["one", "none"])
    assert values == ["one: LoRA 8", "one: LoRA 2", "none"]
    assert [grid.label(STUDY, value) for value in values] == ["LoRA 8 · 300", "LoRA 2 · 300", "no adapter"]
    entry = grid.entry_for(Cell(study="one: LoRA 2"))
    assert entry is not None and entry.name == "one-small-s1-000300"


def test_a_study_chooses_whose_types_are_meant(tmp_path: Path) -> None:
    grid = study_grid(tmp_path, STUDY, TYPE, STEP)
    assert grid.set_values(TYPE, ["LoRA 2"]) == ["LoRA 2"]
    assert grid.set_values(STUDY, ["all"]) == ["one", "two"]
    assert grid.set_values(STEP, ["50%", "all"]) == ["50%", "100", "200", "300"]
    names = [grid.write_prompt("a", Cell("LoRA 2", "50%", study=study)) for study in ("one", "two")]
    assert names == ["a <lora:one-small-s1-000100:1>", "a <lora:two-small-s1-000100:1>"]
    with pytest.raises(AdapterLabError, match=r"'LoRA 2' can mean several: LoRA · one-small-s1, LoRA · two-small-s1"):
        grid.entry_for(Cell("LoRA 2"))


def test_a_file_and_a_step_are_the_files_run_at_that_step(tmp_path: Path) -> None:
    grid = study_grid(tmp_path, FILE, STEP)
    entry = grid.entry_for(Cell(step="100", file="two-large-s1-000300"))
    assert entry is not None and entry.name == "two-large-s1-000100"
    assert grid.entry_for(Cell(step="0", file="two-large-s1-000300")) is None
