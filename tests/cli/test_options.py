"""The command line's options: every setting has a flag, and flags, --set, files and presets make one configuration."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.cli.options import chosen_config
from adapter_lab.cli.parser import make_parser
from adapter_lab.config import RuleConfig, SourceConfig, TrainConfig, flag_of, settings
from adapter_lab.errors import ConfigError
from tests.support.settings import set_options


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def configured(*arguments: str) -> TrainConfig:
    return chosen_config(parsed("estimate", *arguments))[0]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parsed(command, "--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "estimate", "report", "config"])
def test_every_setting_is_explained_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    flat = " ".join(text.split())
    for section, name, entry in settings():
        assert f"  {flag_of(section, name)}" in text, name
        assert " ".join(entry.metadata["help"].split())[:40] in flat, name


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys, time; started = time.process_time()\n"
        "from adapter_lab.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(time.process_time() - started, "
        "[m for m in ('torch', 'diffusers', 'PIL', 'numpy') if m in sys.modules])\n"
    )
    extension = Path(config_file.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=extension, check=True)
    seconds, modules = done.stdout.splitlines()[-1].split(" ", 1)
    assert modules == "[]"
    assert float(seconds) < 0.5


def test_flags_are_unique_and_short() -> None:
    flags = [flag_of(section, name) for section, name, _ in settings()]
    assert len(set(flags)) == len(flags)
    wanted = {
        "--base",
        "--algo",
        "--dim",
        "--alpha",
        "--train-te",
        "--conv-dim",
        "--conv-alpha",
        "--tucker",
        "--factor",
    }
    assert wanted | {"--dtype", "--steps", "--seed", "--name", "--preview-steps"} <= set(flags)


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["--dim", "32"], "network.dim", 32),
        (["--alpha", "16"], "network.alpha", 16.0),
        (["--tucker"], "network.tucker", True),
        (["--no-attention"], "network.attention", False),
        (["--factor", "-1"], "network.factor", -1),
        (["--betas", "0.9", "0.999"], "optimizer.betas", [0.9, 0.999]),
        (["--betas", "0.9,0.999"], "optimizer.betas", [0.9, 0.999]),
        (["--prompts", "a cat, sitting", "a dog"], "preview.prompts", ["a cat, sitting", "a dog"]),
        (["--regularization-folder", "x"], "dataset.regularisation_folder", "x"),
        (["--prompts"], "preview.prompts", []),
        (["--base", "a=b.safetensors"], "base.checkpoint", "a=b.safetensors"),
        (["--set", "network.dim=8"], "network.dim", 8),
        (["--set", "network.dim=8", "--dim", "4"], "network.dim", 4),
        (["--set", "network.dim=8", "--set", "network.dim=9"], "network.dim", 9),
        (["--rules", '[{match = "lora_te*", dim = 8}]'], "network.rules", [RuleConfig(match="lora_te*", dim=8)]),
        (["--sources", '{"folder": "x"}'], "dataset.sources", [SourceConfig(folder="x")]),
        (["--steps", "10"], "run.steps", 10),
        (["--preview-steps", "10"], "preview.steps", 10),
    ],
)
def test_flags_and_changes_set_what_they_name(arguments: list[str], path: str, value: Any) -> None:
    config = configured(*arguments)
    section, name = path.split(".")
    assert getattr(getattr(config, section), name) == value
    changed = set_options(TrainConfig(), [])
    setattr(getattr(changed, section), name, value)
    assert config == changed


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_family_in_place_of_a_checkpoint(family: str) -> None:
    config = configured("--base", family)
    assert (config.base.family, config.base.checkpoint) == (family, "")


def test_files_win_over_presets_and_flags_over_files_and_what_is_overridden_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[network]\ndim = 4\nconv_dim = 3\n[run]\nbatch_size = 7\n")
    arguments = parsed("estimate", "--preset", "sdxl-locon-12gb", "--config", str(path), "--batch-size", "9")
    config, remarks = chosen_config(arguments)
    assert (config.network.dim, config.network.alpha, config.network.conv_dim) == (4, 16.0, 3)
    assert config.run.batch_size == 9
    assert len(remarks) == 3
    assert remarks[0] == f"{path} sets network.dim to 4, not to the preset's 32."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "many"], "--dim must be a whole number, but is 'many'"),
        (["--betas", "x"], "--betas must be a number, but is ['x']"),
        (["--rules", "x"], "--rules must be a list of tables"),
        (["--set", "network.dimm=1"], "did you mean network.dim?"),
        (["--preset", "sdxl-lorka-8gb"], "did you mean sdxl-l"),
        (["--config", "/no/such.toml"], "/no/such.toml cannot be read"),
    ],
)
def test_what_is_not_understood_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(*arguments)
    assert message in str(raised.value)


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("estimate", "--resol", "512")
    assert ended.value.code == 2
    assert "--resol" in capsys.readouterr().err
