"""Commands on a tiny base: train, resume, inspect, apply and report as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adapter_lab import config_file
from adapter_lab.cli import main
from tests.support.training import draw_pictures, tiny_base, tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 2 steps, made by the command."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(folder, "sd15", run__steps=1)
    config_file.write(config, folder / "mine.toml")
    arguments = ["train", "--config", str(folder / "mine.toml"), "--run-folder", str(folder / "run"), "--steps", "2"]
    assert main([*arguments, "--name", "hero"]) == 0
    return folder / "run"


def test_train_writes_an_adapter_and_the_whole_configuration(trained: Path) -> None:
    assert (trained / "adapters" / "hero.safetensors").exists()
    config = config_file.load(trained / "config.toml")
    assert (config.run.steps, config.run.name, config.network.dim) == (2, "hero", 4)
    assert config_file.dumps(config).encode() == (trained / "config.toml").read_bytes()


def test_train_shows_settings_and_the_report_on_the_pictures_and_prints_its_result_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_file.write(tiny_config(tmp_path, "sd15", run__steps=1), tmp_path / "mine.toml")
    assert main(["train", "--config", str(tmp_path / "mine.toml"), "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["steps"] == 1
    assert Path(result["adapters"][-1]).exists()
    assert shown.err.index("network.algo = ") < shown.err.index("Buckets") < shown.err.index("Saved ")


def test_resume_goes_on_with_other_steps(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(trained), "--set", "run.steps=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert main(["resume", str(trained), "--set", "network.dim=8"]) == 2
    assert "network.dim cannot be changed" in capsys.readouterr().err


def test_inspect_and_apply_take_the_file(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = str(trained / "adapters" / "hero.safetensors")
    assert main(["inspect", adapter, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert list(described["algorithms"]) == ["lora"]
    base, out = tiny_base("sd15"), tmp_path / "out.safetensors"
    arguments = ["apply", "--base", str(base), "--adapter", f"{adapter}:0.5", "--out", str(out), "--changed-only"]
    assert main([*arguments, "--dtype", "fp32", "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)["changed"]
    before, after = load_file(base), load_file(out)
    assert len(after) == described["modules"]
    alike = [key for key, tensor in after.items() if (before[key] == tensor).all()]
    # Queries and keys of attention over a single position have no effect, so nothing is learned there.
    assert all("middle_block" in key and ".attn1." in key for key in alike)
    assert changed == len(after) - len(alike)


def test_report_lists_buckets_without_a_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = str(draw_pictures(tmp_path / "p", 3, (128, 64)))
    assert main(["report", "--folder", pictures, "--resolution", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["report", "--folder", pictures, "--base", "sd15", "--bucket-min", "64"]) == 0
    assert "3 images" in capsys.readouterr().out
    assert main(["report", "--folder", pictures]) == 2
    assert "needs a resolution" in capsys.readouterr().err


def test_estimate_reads_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--base", str(tiny_base("sdxl")), "--algo", "diag-oft", "--dim", "4", "--no-memory"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base"] == "SDXL" and found["peak_bytes"] is None
    assert main(arguments) == 0
    assert "diag-oft" in capsys.readouterr().out
