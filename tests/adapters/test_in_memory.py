"""A file held in memory: the same numbers as on disk, and deaf to what happens there afterwards."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.in_memory import FileInMemory
from adapter_lab.adapters.tensors import Scratch, TensorFile
from adapter_lab.errors import FileFormatError

TENSORS = {
    "x.diff": torch.arange(12.0).reshape(3, 4),
    "x.alpha": torch.tensor(2.5, dtype=torch.float64),
    "y.diff": torch.arange(6.0, dtype=torch.float32).reshape(2, 3).to(torch.bfloat16),
    "z.diff": torch.arange(-3, 3).to(torch.float8_e4m3fn),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "a.safetensors", TENSORS, {"note": "kept"})
    return tmp_path / "a.safetensors"


def test_tensors_metadata_and_bytes_are_those_on_disk(path: Path) -> None:
    on_disk = TensorFile.open(path)
    found = FileInMemory(on_disk)
    assert found.metadata == on_disk.metadata and found.shapes == on_disk.shapes
    for key, tensor in found.read_many(TENSORS).items():
        assert tensor.dtype == TENSORS[key].dtype and torch.equal(tensor.float(), TENSORS[key].float())
        assert b"".join(found.chunks(key)) == b"".join(on_disk.chunks(key))


def test_a_file_overwritten_in_place_afterwards_changes_nothing(path: Path) -> None:
    found = FileInMemory(TensorFile.open(path))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\xff" * size)
    assert torch.equal(found.read("x.diff"), TENSORS["x.diff"])


def test_a_tensor_is_no_copy_unless_asked_for_one(path: Path) -> None:
    found = FileInMemory(TensorFile.open(path))
    assert found.read("x.diff").data_ptr() == found.read("x.diff").data_ptr()
    copy = found.read("x.diff", Scratch())
    copy.zero_()
    assert torch.equal(found.read("x.diff"), TENSORS["x.diff"])


def test_tensors_may_begin_at_any_byte(tmp_path: Path) -> None:
    header = {
        "flag": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "x.diff": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x07" + struct.pack("<2f", 1.5, -2.0))
    assert FileInMemory(TensorFile.open(path)).read("x.diff").tolist() == [1.5, -2.0]


def test_a_file_that_became_shorter_is_refused(path: Path) -> None:
    file = TensorFile.open(path)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size - 4)
    with pytest.raises(FileFormatError, match=r"a\.safetensors is cut short"):
        FileInMemory(file)


def test_a_file_that_is_gone_is_refused(path: Path) -> None:
    file = TensorFile.open(path)
    path.unlink()
    with pytest.raises(FileFormatError, match=r"a\.safetensors cannot be read"):
        FileInMemory(file)
