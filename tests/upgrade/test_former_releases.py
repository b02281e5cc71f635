"""What former releases wrote is gone on with: runs, studies, reports; what a newer one wrote is left alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from adapter_lab import config_file, upgrades
from adapter_lab.api.own_presets import OwnPresets
from adapter_lab.cli import main
from adapter_lab.config import LossConfig, NetworkConfig, RuleConfig, TrainConfig, default_of
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.study.record.state import load_state as load_study_state
from adapter_lab.study.running.runner import run as run_study
from adapter_lab.study.spec.file import load as load_study
from adapter_lab.training.loop import resume, train
from adapter_lab.training.output.checkpoint import load_state
from adapter_lab.worker import Worker
from adapter_lab.worker.queries import RunQueries
from tests.support.study_runs import LOKR, InProcess
from tests.support.training import events_of, losses_of, tiny_base, tiny_config
from tests.upgrade.make import ROOT, TEXTS

RELEASES = sorted(path for path in (Path(__file__).parents[1] / "data" / "upgrade").iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a release left behind, with its base."""
    root = tmp_path / "left"
    shutil.copytree(request.param, root)
    shutil.copyfile(tiny_base("sd15"), root / "base.safetensors")
    for pattern in TEXTS:
        for path in root.rglob(pattern):
            text = path.read_text(encoding="utf-8")
            if ROOT in text:
                path.write_text(text.replace(ROOT, str(root)), encoding="utf-8")
    return root


def test_a_run_goes_on_as_in_the_release_that_began_it(left: Path) -> None:
    before = (left / "run" / "config.toml").read_text(encoding="utf-8")
    result = resume(left / "run", {"run.steps": 4})
    assert result.steps == 4
    expected = json.loads((left / "expected.json").read_text(encoding="utf-8"))["losses"]
    assert losses_of(left / "run") == pytest.approx(expected, rel=1e-5)
    after = (left / "run" / "config.toml").read_text(encoding="utf-8")
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [("steps = 2", "steps = 4")]
    assert not events_of(left / "run", "failed")


def test_a_finished_run_is_shown_and_compared(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(left / "run" / "adapters" / "old.safetensors")]) == 0
    assert "SD1.5" in capsys.readouterr().out
    summary = RunQueries(left).run("run")
    assert (summary.state, summary.step, summary.algo) == ("finished", 2, "lora")
    assert [Path(entry["path"]).name for entry in summary.adapters] == ["old.safetensors"]


def test_a_preset_of_ones_own_means_what_it_meant(left: Path) -> None:
    own = OwnPresets(left / "presets")
    (listed,) = own.all()
    assert (listed["name"], listed["about"], listed["type"]) == ("mine", "Your own.", "lokr")
    wanted = TrainConfig()
    wanted.network.algo, wanted.network.dim, wanted.network.factor = "lokr", 12, 4
    wanted.optimizer.te1_lr, wanted.loss.min_snr_gamma = 1e-5, 5.0
    wanted.network.rules = [RuleConfig("lora_te*", dim=2)]
    assert own.load("mine") == wanted


def test_a_run_that_waits_is_still_in_the_queue_and_trains(left: Path) -> None:
    worker = Worker(left / "runs")
    (waiting,) = worker.queue().order
    assert worker.queue().paused and worker.run(waiting).state == "queued"
    worker.close()
    folder = left / "runs" / waiting
    assert main(["train", "--config", str(folder / "config.toml"), "--run-folder", str(folder)]) == 0
    assert len(losses_of(folder)) == 3


def test_a_study_half_done_is_gone_on_with_and_reported(left: Path) -> None:
    folder = left / "study"
    executor = InProcess()
    run_study(folder, executor)
    assert executor.ran == []
    text = (folder / "study.toml").read_text(encoding="utf-8")
    settings = "\n".join(f'"{name}" = {value!r}' for name, value in LOKR.settings.items())
    (folder / "study.toml").write_text(f'{text}\n[[variants]]\nname = "LoKr"\n[variants.settings]\n{settings}\n')
    run_study(folder, executor)
    assert set(executor.ran) == {"preparation", "LoKr-s1"}
    state = load_study_state(folder / "state.json")
    assert {run.state for run in state.runs.values()} == {"done"}
    assert main(["study", "report", str(folder)]) == 0
    assert "LoKr" in (folder / "report.md").read_text(encoding="utf-8")
    assert len(load_study(folder / "study.toml").variants) == 2


def test_what_was_changed_is_refused_by_name_and_nothing_is_written(left: Path, tmp_path: Path) -> None:
    path = left / "run" / "config.toml"
    edited = path.read_text(encoding="utf-8").replace("min_snr_gamma = 0.0", "min_snr_gamma = 5.0")
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(AdapterLabError, match="a change of the settings of loss"):
        resume(left / "run", {"run.steps": 4})
    assert path.read_text(encoding="utf-8") == edited
    # A state of this release says which setting it is.
    train(tiny_config(tmp_path, run__steps=1), tmp_path / "now")
    path = tmp_path / "now" / "config.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("min_snr_gamma = 0.0", "min_snr_gamma = 5.0"))
    with pytest.raises(AdapterLabError, match=r"a change of loss\.min_snr_gamma; put it back"):
        resume(tmp_path / "now", {"run.steps": 2})
    assert "steps = 1\n" in path.read_text(encoding="utf-8")


def test_a_release_with_one_more_setting_goes_on_and_one_without_it_says_so(tmp_path: Path) -> None:
    stored = dataclasses.asdict(LossConfig())
    present = {field.name: (stored[field.name], default_of(field)) for field in dataclasses.fields(LossConfig)}
    assert upgrades.changed_settings("loss", stored, {**present, "new": (0.0, 0.0)}) == []
    assert upgrades.changed_settings("loss", stored, {**present, "new": (0.5, 0.0)}) == ["loss.new"]
    found = upgrades.changed_settings("loss", {**stored, "newer": 1.0}, present)
    assert found == ["loss.newer, which this release does not know"]


def test_every_setting_is_of_the_first_release_or_said_to_have_been_added() -> None:
    names = json.loads((RELEASES[0].parent / "names.json").read_text(encoding="utf-8"))
    for section, owner in [(f.name, type(getattr(TrainConfig(), f.name))) for f in dataclasses.fields(TrainConfig)]:
        added = {entry.name for entry in dataclasses.fields(owner)} - set(names[section])
        assert added == {path.split(".")[1] for path in upgrades.ADDED if path.startswith(f"{section}.")}, section
    assert set(upgrades.ADDED.values()) == set(range(2, upgrades.FORMAT + 1))
    assert "rank_power" in {entry.name for entry in dataclasses.fields(NetworkConfig)}


def test_files_of_a_newer_release_are_left_alone_and_name_it(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, run__steps=1), tmp_path / "run")
    path, state = tmp_path / "run" / "config.toml", next((tmp_path / "run" / "state").iterdir())
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"format {upgrades.FORMAT}, release", "format 99, release 7.0 or"), encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace("release 7.0 or 0.2.0", "release 7.0"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"was written by Adapter Lab 7\.0, which this one .* cannot read"):
        resume(tmp_path / "run", {"run.steps": 2})
    path.write_text(text, encoding="utf-8")
    content = torch.load(state, weights_only=True)
    torch.save({**content, "format": 9, "release": "7.0", "something": 1}, state)
    with pytest.raises(AdapterLabError, match=r"training state .* was written by Adapter Lab 7\.0"):
        resume(tmp_path / "run", {"run.steps": 2})
    with pytest.raises(AdapterLabError, match=r"7\.0"):
        load_state(state)
    (tmp_path / "state.json").write_text(json.dumps({"format": 9, "release": "7.0", "runs": {}}))
    with pytest.raises(AdapterLabError, match=r"7\.0"):
        load_study_state(tmp_path / "state.json")


def test_settings_that_a_newer_release_added_are_kept_and_said(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, run__steps=1), tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    text = path.read_text(encoding="utf-8").replace("[loss]", "[loss]\nfrom_the_future = 3")
    path.write_text(f"{text}\n[future]\nx = 1\n", encoding="utf-8")
    resume(tmp_path / "run", {"run.steps": 2})
    kept = path.read_text(encoding="utf-8")
    assert "from_the_future = 3" in kept and "[future]" in kept and config_file.load_run(path)[0].run.steps == 2
    said = [event["message"] for event in events_of(tmp_path / "run", "warning")]
    assert any("loss.from_the_future, which this release does not know" in sentence for sentence in said)
