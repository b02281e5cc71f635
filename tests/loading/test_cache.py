"""Files are read and parsed once per version, kept within a bound, and never seen half old and half new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.in_memory import FileInMemory
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.errors import FileFormatError
from adapter_lab.hosts.loading.base_model import BaseModel, comfy_base
from adapter_lab.hosts.loading.cache import AdapterCache

WEIGHT = "diffusion_model.x.weight"
BASE = comfy_base("base", {WEIGHT: (64, 64)}, {}, lambda: {"x": WEIGHT})


def write(path: Path, value: float = 1.0) -> str:
    save_adapter(path, {"x.diff": torch.full((64, 64), float(value))}, {})
    return str(path)


def cache(limit: int = 2**30) -> AdapterCache:
    return AdapterCache(lambda: limit)


def value(found: AdapterCache, path: str, base: BaseModel = BASE) -> float:
    return float(found.get(path).plan(base).patches[WEIGHT].patched(torch.zeros(64, 64), 1.0)[0, 0])


def test_two_files_of_a_grid_in_turn_are_read_and_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = FileInMemory.__init__

    def counted(self: FileInMemory, file: TensorFile) -> None:
        opened.append(file.path.name)
        original(self, file)

    monkeypatch.setattr(FileInMemory, "__init__", counted)
    first, second, files = write(tmp_path / "1.safetensors", 1), write(tmp_path / "2.safetensors", 2), cache()
    found = []
    for path in (first, second) * 5:
        files.trim([path])
        found.append(value(files, path))
    assert found == [1, 2] * 5
    assert files.reads == 2 and opened == ["1.safetensors", "2.safetensors"]
    assert files.get(first).plan(BASE) is files.get(first).plan(BASE)


def test_a_retrained_file_is_read_anew(tmp_path: Path) -> None:
    files, path = cache(), write(tmp_path / "a.safetensors", 1)
    assert value(files, path) == 1
    write(tmp_path / "a.safetensors", 2)
    assert value(files, path) == 2


def test_the_same_size_at_another_time_is_another_version(tmp_path: Path) -> None:
    files, path = cache(), write(tmp_path / "a.safetensors", 1)
    assert value(files, path) == 1
    status = os.stat(path)
    write(tmp_path / "a.safetensors", 2)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert os.stat(path).st_size == status.st_size
    assert value(files, path) == 2


def test_a_file_overwritten_in_place_while_in_use_keeps_its_old_numbers(tmp_path: Path) -> None:
    files, path = cache(), write(tmp_path / "a.safetensors", 1)
    plan = files.get(path).plan(BASE)
    with open(path, "r+b") as file:
        file.write(b"\x7f" * os.path.getsize(path))
    assert torch.equal(plan.patches[WEIGHT].patched(torch.zeros(64, 64), 1.0), torch.ones(64, 64))


def test_a_file_that_changes_between_header_and_weights_is_refused_not_mixed(tmp_path: Path) -> None:
    files, path = cache(), write(tmp_path / "a.safetensors", 1)
    entry = files.get(path)
    write(tmp_path / "a.safetensors", 2)
    with pytest.raises(FileFormatError, match=r"a\.safetensors changed while it was read; generate again"):
        entry.plan(BASE)
    assert value(files, path) == 2


def test_the_error_of_a_broken_file_is_remembered_with_its_version(tmp_path: Path) -> None:
    files, path = cache(), str(tmp_path / "a.safetensors")
    Path(path).write_bytes(b"nonsense that is no adapter")
    for _ in range(3):
        with pytest.raises(FileFormatError, match=r"is not a \.safetensors file"):
            files.get(path).plan(BASE)
    assert files.reads == 1
    write(tmp_path / "a.safetensors", 3)
    assert value(files, path) == 3


def test_a_missing_file_is_an_error_until_it_is_there(tmp_path: Path) -> None:
    files, path = cache(), str(tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError, match="There is no file"):
        files.get(path).plan(BASE)
    write(tmp_path / "a.safetensors", 3)
    assert value(files, path) == 3


def test_memory_is_bounded_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    size = 64 * 64 * 4
    files = cache(limit=3 * size)
    paths = [write(tmp_path / f"{number}.safetensors", number) for number in range(6)]
    for path in paths:
        value(files, path)
        files.trim([path])
        assert sum(files.get(known).bytes for known in list(files._files)) <= 3 * size + size
    assert paths[-1] in files._files and paths[0] not in files._files
    kept = list(files._files)
    reads = files.reads
    value(files, paths[0])
    assert files.reads == reads + 1
    files.trim([])
    assert kept[0] not in files._files


@pytest.mark.parametrize("limit", [0, 2**30])
def test_files_in_use_stay_whatever_the_bound(limit: int, tmp_path: Path) -> None:
    files = cache(limit)
    paths = [write(tmp_path / f"{number}.safetensors", number) for number in range(3)]
    for path in paths:
        value(files, path)
    files.trim(paths)
    assert len(files) == 3
    files.trim([])
    assert len(files) == (3 if limit else 0)


def test_files_beyond_counting_are_given_up_even_if_they_hold_nothing(tmp_path: Path) -> None:
    files = cache()
    for number in range(2000):
        files.get(str(tmp_path / f"missing-{number}.safetensors"))
        files.trim([])
    assert len(files) <= 512


def test_modules_with_nan_are_told_apart_and_the_rest_is_usable(tmp_path: Path) -> None:
    tensors = {"x.diff": torch.ones(64, 64), "y.diff": torch.full((64, 64), float("nan"))}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    base = comfy_base("base", {WEIGHT: (64, 64), "y.weight": (64, 64)}, {}, lambda: {"x": WEIGHT, "y": "y.weight"})
    entry = cache().get(str(tmp_path / "a.safetensors"))
    assert not entry.sound and set(entry.plan(base).patches) == {WEIGHT}
    assert entry.reasons(base) == {"y": "y.diff holds NaN or infinity; its training failed"}


def test_a_file_of_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", float("nan"))
    with pytest.raises(FileFormatError, match=r"none of its modules could be read, as x\.diff holds NaN"):
        cache().get(path).plan(BASE)


def test_weights_given_back_are_read_again_when_needed(tmp_path: Path) -> None:
    entry = cache().get(write(tmp_path / "a.safetensors"))
    assert entry.sound
    full = entry.bytes
    entry.forget_weights()
    assert entry.bytes < full and entry.sound and entry.loads == 1
    assert entry.plan(BASE).patches and entry.loads == 2


def test_what_is_a_file_of_something_else(tmp_path: Path) -> None:
    save_adapter(tmp_path / "else.safetensors", {"emb_params": torch.zeros(3)}, {})
    save_adapter(tmp_path / "empty.safetensors", {}, {})
    save_adapter(tmp_path / "rank-zero.safetensors", {"x.lora_up.weight": torch.zeros(4, 0)}, {})
    write(tmp_path / "adapter.safetensors")
    found = {path.stem: cache().get(str(path)) for path in tmp_path.iterdir()}
    assert {name for name, entry in found.items() if entry.foreign} == {"else"}
    assert {name for name, entry in found.items() if entry.well_formed} == {"else", "rank-zero", "adapter"}
