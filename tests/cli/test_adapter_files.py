"""The commands that make adapter files from others: what they write, print and return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.cli import main
from tests.adapters.derived import case_tensors, largest_error, save_base

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A LoRA, a LoKr and a DoRA file, and their base."""
    paths = {case: tmp_path / f"{case.replace(' ', '-')}.safetensors" for case in ("lora", "lokr", "lora dora")}
    for case, path in paths.items():
        save_adapter(path, case_tensors(case), {})
    return {**paths, "base": save_base(tmp_path / "base.safetensors"), "out": tmp_path / "out.safetensors"}


def run(capsys: Captured, *arguments: Any) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_convert_prints_the_error_it_made(files: dict[str, Path], capsys: Captured) -> None:
    found = run(capsys, "convert", files["lokr"], "--to", "lora", "--rank", 3, "--base", files["base"],
                "--out", files["out"], "--dtype", "fp32")  # fmt: skip
    assert found["modules"] == {"lora": 4} and found["ranks"] == {"3": 4}
    assert largest_error([(files["out"], 1.0)], [(files["lokr"], 1.0)]) == pytest.approx(found["worst"][0]["error"])
    assert main(["convert", str(files["lokr"]), "--to", "lora", "--rank", "3", "--out", str(files["out"]),
                 "--base", str(files["base"])]) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert f"error: {found['error']:.2%}" in text and found["worst"][0]["name"] in text


def test_convert_says_what_is_missing(files: dict[str, Path], capsys: Captured) -> None:
    assert main(["convert", str(files["lora dora"]), "--to", "full", "--out", str(files["out"])]) == 2
    shown = capsys.readouterr().err
    assert "name the checkpoint it was trained on with --base" in shown and "Traceback" not in shown
    assert main(["convert", str(files["lora"]), "--to", "lora", "--out", str(files["out"])]) == 2
    assert "Give a rank" in capsys.readouterr().err


def test_merge_takes_strengths(files: dict[str, Path], capsys: Captured) -> None:
    steps = [(files["lora"], 0.5), (files["lora dora"], -1.0)]
    found = run(capsys, "merge", *(f"{path}:{strength}" for path, strength in steps), "--base", files["base"],
                "--out", files["out"], "--dtype", "fp32")  # fmt: skip
    assert found["modules"] == {"full": 4}
    assert largest_error([(files["out"], 1.0)], steps) <= 1e-6
    found = run(capsys, "merge", files["lora"], files["lokr"], "--energy", 0.9, "--out", files["out"],
                "--base", files["base"])  # fmt: skip
    assert found["modules"] == {"lora": 4} and 0 < found["error"] <= 0.1**0.5


def test_resize_keeps_the_energy_asked_for(files: dict[str, Path], capsys: Captured) -> None:
    found = run(capsys, "resize", files["lora"], "--energy", 0.8, "--out", files["out"])
    assert 0 < found["worst"][0]["error"] <= 0.2**0.5
    assert main(["resize", str(files["lokr"]), "--rank", "2", "--out", str(files["out"])]) == 2
    assert "adapter-lab convert --to lora" in capsys.readouterr().err


def test_extract_gives_back_what_was_applied(files: dict[str, Path], capsys: Captured, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.safetensors"
    arguments = ["--base", files["base"], "--adapter", files["lora"], "--out", tuned]
    assert main(["apply", *map(str, arguments)]) == 0
    capsys.readouterr()
    found = run(capsys, "extract", "--base", files["base"], "--tuned", tuned, "--error", 1e-3, "--out", files["out"])
    assert found["modules"] == {"lora": 4} and found["ranks"] == {"4": 4}
    assert {info.dtype for info in AdapterFile.open(files["out"]).file.tensors.values()} == {torch.float16}
    assert largest_error([(files["out"], 1.0)], [(files["lora"], 1.0)]) <= 1e-3
    found = run(capsys, "extract", "--base", files["base"], "--tuned", tuned, "--to", "full", "--out", files["out"])
    assert found["modules"] == {"full": 4}


def test_convert_for_a_web_ui_writes_what_it_reads(files: dict[str, Path], capsys: Captured) -> None:
    found = run(capsys, "convert", files["lora dora"], "--for", "forge", "--base", files["base"], "--out", files["out"])
    assert found["modules"] == {"full": 4} and found["notes"] == []
    found = run(capsys, "convert", files["lokr"], "--for", "forge", "--out", files["out"])
    assert found["modules"] == {"lokr": 4}
    assert main(["convert", str(files["lora"]), "--for", "comfy", "--out", str(files["out"])]) == 2
    assert "choose one of classic (Forge-classic)" in capsys.readouterr().err


def test_a_verdict_of_a_file_with_a_broken_module_is_about_the_others(
    files: dict[str, Path], tmp_path: Path, capsys: Captured
) -> None:
    tensors = load_file(files["lora"])
    cut = next(name for name in tensors if name.endswith("lora_up.weight"))
    save_file({**tensors, cut: tensors[cut][:, :-1].contiguous()}, tmp_path / "cut.safetensors")
    assert main(["inspect", str(tmp_path / "cut.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "cannot be used: " in said and "without Adapter Lab (docs/hosts.md), the modules that can be used:" in said


def test_inspect_says_what_each_web_ui_alone_would_do(files: dict[str, Path], capsys: Captured) -> None:
    found = run(capsys, "inspect", files["lora dora"])
    assert found["alone"]["Forge-classic"]["outcome"] == "drop" and found["alone"]["A1111"]["why"]
    assert found["alone"]["source"] == "docs/hosts.md"
    assert main(["inspect", str(files["lora"]), str(files["lora dora"])]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert "  Forge-classic, A1111, Forge, reForge, Forge Neo: would apply" in first
    assert (
        "  Forge-classic: would drop (DoRA per output: " in second
        and "Forge, reForge, Forge Neo: would apply wrongly" in second
    )
