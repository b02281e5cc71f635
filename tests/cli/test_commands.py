"""Commands that need no model: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.adapters.strength import file_and_strength
from adapter_lab.cli import commands, main
from adapter_lab.cli.console import Console, settings_summary
from adapter_lab.config import TrainConfig

KOHYA = 'network_dim = 8\ntrain_data_dir = "pictures"\nweighted_captions = true\ncaption_extension = ".txt"\n'


def test_an_error_a_person_can_mend_is_one_sentence_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--base", "sdxl", "--algo", "lora", "--factor", "4"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "adapter-lab: network.factor is used by lokr only; lora ignores it: remove it or choose algo lokr.\n"
    )


def test_an_error_of_ours_names_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(commands, "presets", lambda chosen: [][1])
    assert main(["presets"]) == 1
    shown = capsys.readouterr().err
    assert "IndexError" in shown and "Traceback" not in shown
    (log,) = tmp_path.iterdir()
    assert str(log) in shown
    assert "Traceback" in log.read_text()


def test_a_traceback_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--dim", "0", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_train_refuses_an_incomplete_configuration_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--base", "sdxl"]) == 2
    error = capsys.readouterr().err
    for words in ("base.checkpoint is empty", "dataset.folder is empty", "The run has no end"):
        assert words in error


def test_config_writes_a_file_that_gives_the_same_file_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    assert main(["config", "--preset", "sdxl-lokr-8gb", "--trigger", "héro", "--out", str(first)]) == 0
    assert main(["config", "--config", str(first), "--out", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    capsys.readouterr()
    assert main(["config", "--config", str(first), "--short"]) == 0
    assert config_file.loads(capsys.readouterr().out) == config_file.load(first)


def test_import_kohya_writes_a_configuration_and_lists_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "kohya.toml", tmp_path / "ours.toml"
    source.write_text(KOHYA)
    assert main(["import-kohya", str(source), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Not carried over as it is (1):\n  weighted_captions = True: captions are taken as plain text here" in shown
    assert f"Wrote {out}." in shown
    assert config_file.load(out).network.dim == 8
    assert main(["import-kohya", str(source)]) == 0
    shown = capsys.readouterr()
    assert config_file.loads(shown.out) == config_file.load(out)
    assert "weighted_captions" in shown.err


def test_import_kohya_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "kohya.toml"
    source.write_text(KOHYA)
    assert main(["import-kohya", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["dataset"]["folder"] == "pictures"
    assert [entry["key"] for entry in found["left_out"]] == ["weighted_captions"]
    assert found["ignored"] == []


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert main(["presets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(names) > 100


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("C:\\x\\a.safetensors", "C:\\x\\a.safetensors", 1.0),
        ("C:\\x\\a.safetensors:2", "C:\\x\\a.safetensors", 2.0),
    ],
)
def test_adapters_are_given_with_a_strength(text: str, file: str, strength: float) -> None:
    assert file_and_strength(text) == (file, strength)


def test_the_summary_shows_the_main_settings_and_all_that_differ() -> None:
    config = TrainConfig()
    config.network.tucker = True
    text = settings_summary(config)
    assert '  network.algo = "lora"  (default)' in text
    assert "  network.tucker = true\n" in text
    assert "huber_delta" not in text


def test_the_console_shows_events_and_survives_incomplete_ones(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console({"event": "preparing", "what": "latents", "done": 1, "total": 2})
    console({"event": "warning", "message": "no captions"})
    console({"event": "validation", "step": 3})
    console({"event": "step", "step": 3})
    assert capsys.readouterr().out == "Warning: no captions\nValidation loss at step 3: ?\n"
