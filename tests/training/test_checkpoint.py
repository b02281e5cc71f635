"""State files: whole or absent, the newest good one is used, and no code is unpickled."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from adapter_lab.errors import AdapterLabError
from adapter_lab.training.output import checkpoint
from adapter_lab.training.output.checkpoint import TrainingState, load_latest, save_state, states


def state(step: int) -> TrainingState:
    return TrainingState(
        step=step,
        seconds=step * 1.25,
        weights={"layer.down": torch.randn(3, 4), "layer.scalar": torch.randn(())},
        optimizer={"members": [{"state": {0: {"exp_avg": torch.randn(3), "step": 5}}, "param_groups": [{"d": 1e-6}]}]},
        average={"updates": 3, "values": [torch.randn(3, 4)]},
        records={"pictures": [["a.png", 3, 0.5, 0.25]]},
        adapters=["a-000001.safetensors"],
        fingerprint={"the base model": "abc"},
    )


def test_a_state_comes_back_exactly(tmp_path):
    saved = state(7)
    save_state(tmp_path, saved, keep=2)
    loaded, complaints = load_latest(tmp_path)
    assert complaints == []
    assert (loaded.step, loaded.seconds, loaded.adapters) == (7, 8.75, ["a-000001.safetensors"])
    assert all(torch.equal(loaded.weights[name], saved.weights[name]) for name in saved.weights)
    assert loaded.records == saved.records
    assert loaded.optimizer["members"][0]["param_groups"] == [{"d": 1e-6}]


def test_the_last_k_states_are_kept(tmp_path):
    for step in (1, 5, 10, 200):
        save_state(tmp_path, state(step), keep=2)
    assert [path.name for path in states(tmp_path)] == ["step-00000010.pt", "step-00000200.pt"]
    assert sorted(os.listdir(tmp_path)) == ["step-00000010.pt", "step-00000200.pt"]


def test_a_broken_newest_state_is_said_and_the_one_before_is_used(tmp_path):
    save_state(tmp_path, state(1), keep=3)
    newest = save_state(tmp_path, state(2), keep=3)
    newest.write_bytes(newest.read_bytes()[:-200])
    loaded, complaints = load_latest(tmp_path)
    assert loaded.step == 1
    assert len(complaints) == 1
    assert "step-00000002.pt" in complaints[0]


def test_a_temporary_file_left_by_a_crash_is_not_a_state(tmp_path):
    save_state(tmp_path, state(1), keep=3)
    (tmp_path / "step-00000002.pt.tmp").write_bytes(b"half")
    assert load_latest(tmp_path)[0].step == 1


def test_no_state_is_said(tmp_path):
    with pytest.raises(AdapterLabError, match="start a new run"):
        load_latest(tmp_path / "state")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_code_in_a_state_file_is_not_run(tmp_path):
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(pickle.dumps({"format": 1, "step": Attack(str(tmp_path / "attacked"))}))
    with pytest.raises(AdapterLabError, match="cannot be read"):
        load_latest(tmp_path)
    torch.save({"format": 1, "step": Attack(str(tmp_path / "attacked"))}, path)
    with pytest.raises(AdapterLabError, match="cannot be read"):
        load_latest(tmp_path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("where", ["write", "flush", "rename"])
def test_a_full_disk_leaves_earlier_states_as_they_were(tmp_path, monkeypatch, where):
    save_state(tmp_path, state(1), keep=1)
    before = (tmp_path / "step-00000001.pt").read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    name = {"write": "torch.save", "flush": "os.fsync", "rename": "os.replace"}[where]
    module, attribute = {"torch.save": (torch, "save")}.get(name, (os, name.split(".")[1]))
    monkeypatch.setattr(module, attribute, full)
    with pytest.raises(AdapterLabError, match=r"disk is full.*make room|No space left.*make room"):
        save_state(tmp_path, state(2), keep=1)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step-00000001.pt"]
    assert (tmp_path / "step-00000001.pt").read_bytes() == before


def test_a_failed_torch_write_is_a_sentence_too(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(checkpoint.torch, "save", failing)
    with pytest.raises(AdapterLabError, match="untouched"):
        save_state(tmp_path, state(2), keep=1)
    assert os.listdir(tmp_path) == []
