"""What a study will come to is said before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab.cli import main
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs.events import read_lines
from adapter_lab.study.planning.forecast import forecast
from adapter_lab.study.running.runner import run
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec import variants as presets
from adapter_lab.study.spec.checks import check, variant_problems
from adapter_lab.study.spec.definition import Variant
from tests.support.study_runs import LOKR, LORA, InProcess, tiny_study


def test_sizes_steps_and_what_will_not_fit_are_said_of_every_variant(tmp_path: Path) -> None:
    folder = tiny_study(tmp_path, general__seeds=[1, 2])
    study = study_file.load(folder / "study.toml")
    found = forecast(study, folder, "cpu", 1000)
    assert [entry["variant"] for entry in found["variants"]] == ["LoRA", "LoKr f2"]
    assert [entry["fits"] for entry in found["variants"]] == [False, False]
    assert all(entry["peak_bytes"] > 1000 and entry["steps"] == 6 for entry in found["variants"])
    assert (found["trainings"], found["files"], found["minutes"]) == (4, 12, None)
    assert found["bytes"] == 6 * sum(entry["file_bytes"] for entry in found["variants"])
    without = forecast(study, folder, "cpu", None)
    assert [entry["fits"] for entry in without["variants"]] == [None, None]


def test_the_predicted_size_is_that_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_study(tmp_path, LORA, budget__amount=1.0, budget__points=1)
    assert main(["study", "plan", str(folder), "--no-memory", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["variants"]
    run(folder, InProcess())
    (adapter,) = (folder / "adapters").glob("*.safetensors")
    # Beside the tensors a file has metadata of the run, which differs by a few bytes.
    assert adapter.stat().st_size == pytest.approx(planned["file_bytes"], rel=0.05)


def test_the_plan_is_also_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_study(tmp_path, budget__unit="minutes", budget__amount=3.0)
    assert main(["study", "plan", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "LoKr f2" in text and "2 trainings, 6 files" in text


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_a_study_without_problems(name: str, tmp_path: Path) -> None:
    study = study_file.load(tiny_study(tmp_path) / "study.toml")
    study.variants = presets.PRESETS[name][2]()
    study.shared.network.feed_forward = study.shared.network.projections = True
    check(study)
    assert variant_problems(study) == []


def test_problems_of_one_variant_name_it_and_shared_ones_are_said_once(tmp_path: Path) -> None:
    study = study_file.load(tiny_study(tmp_path) / "study.toml")
    study.variants = [LORA, LOKR, Variant("odd", {"network.factor": 4})]
    study.shared.dataset.folder = ""
    found = variant_problems(study)
    assert len(found) == 2
    assert any(message.startswith("Variant odd: network.factor") for message in found)
    assert any("dataset.folder" in message and not message.startswith("Variant") for message in found)


def test_why_a_study_could_not_go_on_is_in_its_log(tmp_path: Path) -> None:
    folder = tiny_study(tmp_path, LORA)
    study = study_file.load(folder / "study.toml")
    (Path(study.shared.dataset.folder) / "0.png").unlink()
    for picture in Path(study.shared.dataset.folder).glob("*.png"):
        picture.unlink()
    with pytest.raises(AdapterLabError) as raised:
        run(folder, InProcess())
    last = list(read_lines(folder / "events.jsonl"))[-1]
    assert last["event"] == "failed" and last["message"] == str(raised.value) and "training" not in last


def test_a_budget_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    study = study_file.load(tiny_study(tmp_path, budget__amount=7.0) / "study.toml")
    with pytest.raises(ConfigError, match="take 6"):
        check(study)
