"""Commands on a full disk: a sentence, the older file as it was, and nothing left beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab.adapters.file import save_adapter
from adapter_lab.cli import main
from tests.adapters.derived import case_tensors, save_base
from tests.support.full_disk import FullDisk

COMMANDS = {
    "convert": ("convert", "lokr", "--to", "full", "--base", "base"),
    "convert to lora": ("convert", "lokr", "--to", "lora", "--rank", "2", "--base", "base"),
    "merge": ("merge", "lora", "lokr", "--to", "full", "--base", "base"),
    "resize": ("resize", "lora", "--rank", "1"),
}


@pytest.mark.parametrize("room", [0, 100, 1000])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_said_and_leaves_nothing(
    command: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in ("lora", "lokr"):
        save_adapter(tmp_path / case, case_tensors(case), {})
    save_base(tmp_path / "base")
    out = tmp_path / "made" / "out.safetensors"
    out.parent.mkdir()
    out.write_text("older")
    monkeypatch.chdir(tmp_path)
    FullDisk(monkeypatch, room)
    status = main([*COMMANDS[command], "--out", str(out)])
    assert (status, capsys.readouterr().err) == (
        2,
        f"adapter-lab: The disk is full, so {out} could not be written: make room on it and try again.\n",
    )
    assert out.read_text() == "older" and list(out.parent.iterdir()) == [out]
