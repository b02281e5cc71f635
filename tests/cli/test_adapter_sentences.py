"""What commands say of adapter files that are not as they should be: sentences, never a traceback, never silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.cli import main
from tests.adapters.derived import case_tensors, save_base

Captured = pytest.CaptureFixture[str]
EMBEDDING = "bundle_emb.me.string_to_param.*"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint."""
    return save_base(tmp_path / "base.safetensors")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A LoRA for it."""
    save_adapter(tmp_path / "good.safetensors", case_tensors("lora"), {})
    return tmp_path / "good.safetensors"


def said(capsys: Captured, *arguments: Any, code: int = 2) -> str:
    """What a command prints, which must end with this code and no traceback."""
    assert main([*map(str, arguments)]) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err and "Error" not in shown.err
    return shown.out + shown.err


STRENGTHS = {"0,5": "write 0.5", **dict.fromkeys(("nan", "inf", "-Infinity", "1e999"), "not finite")}


@pytest.mark.parametrize("command", ["apply", "merge"])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_strength_that_is_none_is_refused(
    command: str, strength: str, base: Path, good: Path, capsys: Captured
) -> None:
    out = good.with_name("out.safetensors")
    entry = f"{good}:{strength}"
    files = ["--adapter", entry] if command == "apply" else [entry]
    shown = said(capsys, command, *files, "--base", base, "--out", out)
    assert STRENGTHS[strength] in shown and str(good) in shown and not out.exists()


def test_an_existing_out_beside_a_missing_adapter_is_no_traceback(base: Path, good: Path, capsys: Captured) -> None:
    out = good.with_name("out.safetensors")
    out.touch()
    missing = good.with_name("missing.safetensors")
    assert str(missing) in said(capsys, "apply", "--base", base, "--adapter", missing, "--out", out)
    assert "one of the files to be read" in said(capsys, "apply", "--base", base, "--adapter", good, "--out", good)


def test_inspect_shows_the_good_files_beside_a_bad_one(good: Path, capsys: Captured) -> None:
    bad = good.with_name("bad.safetensors")
    bad.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    shown = said(capsys, "inspect", good, bad, good)
    assert shown.count("modules in unet") == 2 and "pointer of Git LFS" in shown and "1 of 3 files" in shown
    assert main(["inspect", str(good), str(bad), "--json"]) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert first["modules"] and "Git LFS" in second["problem"]


BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/v1\n": "pointer of Git LFS",
    b"<!DOCTYPE html><html>": "a web page",
    b"<html lang='en'>": "a web page",
    b"GGUF\x03\0\0\0\0\0\0\0": "a GGUF file",
    b"PK\x03\x04\0\0\0\0\0": "a pickle file",
    b"\x80\x02}q\0\0\0\0\0": "a pickle file",
    b"\x89PNG\r\n\x1a\n\0": "an image",
    b'{"error": "not found"}': "JSON",
    b"anything else": "is not a .safetensors file",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_files_of_another_kind_are_called_what_they_are(beginning: bytes, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "a.safetensors").write_bytes(beginning + bytes(64))
    assert BEGINNINGS[beginning] in said(capsys, "inspect", tmp_path / "a.safetensors")


def with_a_bad_module(folder: Path) -> tuple[Path, str]:
    """A file with one module of rank zero among its good ones, some tensors of no use and an embedding."""
    tensors: dict[str, Tensor] = dict(case_tensors("lora"))
    name = next(iter(tensors)).split(".")[0]
    cut = {f"{name}.{s}": t[:, :0] if s == "lora_up.weight" else t[:0] for s, t in (
        ("lora_up.weight", tensors[f"{name}.lora_up.weight"]), ("lora_down.weight", tensors[f"{name}.lora_down.weight"])
    )}  # fmt: skip
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{name}.")}
    other = next(iter(kept)).split(".")[0]
    more = {f"{other}.oft_blocks": torch.zeros(4, 4, 4), EMBEDDING: torch.randn(2, 8), "nonsense": torch.zeros(1)}
    save_adapter(folder / "bad.safetensors", {**kept, **cut, **more}, {})
    return folder / "bad.safetensors", name


COMMANDS: dict[str, list[str]] = {
    "inspect": [],
    "apply": ["--base", "BASE", "--out", "OUT", "--changed-only"],
    "convert": ["--to", "same", "--out", "OUT"],
    "convert to lora": ["--to", "lora", "--rank", "2", "--out", "OUT"],
    "convert to full": ["--to", "full", "--out", "OUT", "--base", "BASE"],
    "convert for forge": ["--for", "forge", "--out", "OUT"],
    "resize": ["--rank", "1", "--out", "OUT"],
    "merge": ["--out", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_bad_module_costs_itself_and_every_unused_tensor_is_named(
    command: str, base: Path, tmp_path: Path, capsys: Captured
) -> None:
    path, name = with_a_bad_module(tmp_path)
    out = tmp_path / "out.safetensors"
    options = [{"BASE": str(base), "OUT": str(out)}.get(option, option) for option in COMMANDS[command]]
    files = ["--adapter", str(path)] if command == "apply" else [str(path)]
    shown = said(capsys, command.split()[0], *files, *options, code=0)
    assert name in shown and ("rank zero" in shown or "does not fit" in shown)
    assert "nonsense" in shown and "oft_blocks" in shown and EMBEDDING in shown
    if command not in ("inspect", "apply"):
        made = AdapterFile.open(out)
        assert len(made.modules) == len(AdapterFile.open(path).modules) - 1
        assert torch.equal(made.file.read(EMBEDDING), TensorFile.open(path).read(EMBEDDING))


@pytest.mark.parametrize("command", ["convert", "resize", "merge"])
def test_a_file_of_bad_modules_alone_is_refused(command: str, tmp_path: Path, capsys: Captured) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_up.weight": torch.zeros(4, 0), f"{name}.lora_down.weight": torch.zeros(0, 4)}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    options = {"convert": ["--to", "same"], "resize": ["--rank", "1"], "merge": []}[command]
    shown = said(capsys, command, tmp_path / "a.safetensors", *options, "--out", tmp_path / "out.safetensors")
    assert "rank zero" in shown and not (tmp_path / "out.safetensors").exists()


def test_embeddings_of_one_name_and_other_numbers_are_named(tmp_path: Path, capsys: Captured) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        embedding = {EMBEDDING: torch.full((2, 8), float(number // 2))}
        save_adapter(path, {**case_tensors("lora"), **embedding}, {})
    shown = said(capsys, "merge", *paths, "--out", tmp_path / "out.safetensors", code=0)
    assert f"carried along: {EMBEDDING}" in shown and f"2.safetensors: {EMBEDDING}: another" in shown
    assert "1.safetensors: bundle" not in shown


def test_a_strength_that_is_a_guess_is_said_to_be_one(base: Path, tmp_path: Path, capsys: Captured) -> None:
    tensors = {key: tensor for key, tensor in case_tensors("lora").items() if not key.endswith(".alpha")}
    name, count = next(iter(tensors)).split(".")[0], len({key.split(".")[0] for key in tensors})
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    assert "alpha not stated, taken as dim" in said(capsys, "inspect", path, code=0)
    assert f"alpha is not stated in {count} modules" in said(
        capsys, "apply", "--base", base, "--adapter", path, "--out", out, code=0
    )
    assert f"alpha is not stated in {count} modules" in said(
        capsys, "convert", path, "--to", "same", "--out", out, code=0
    )
    save_adapter(path, {**tensors, f"{name}.alpha": torch.tensor(0.0)}, {})
    assert "alpha 0.0, which is no effect at all" in said(capsys, "inspect", path, code=0)
