"""Files in folders: read once, grouped by the training they are from."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapter_lab.adapters.library import Library

QUERY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def write(path: Path, metadata: dict[str, str] | None = None, rank: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{QUERY}.lora_up.weight": torch.zeros(320, rank), f"{QUERY}.lora_down.weight": torch.zeros(rank, 320)}
    save_file(tensors, path, metadata or {})
    return path


def names(library: Library, folder: Path) -> dict[str, list[str]]:
    return {run.name: [entry.name for entry in run.entries] for run in library.scan([folder]).runs}


def test_files_of_a_training_are_a_run_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (1200, 400, 800):
        write(tmp_path / "sub" / f"lucy-{step:06d}.safetensors", {"ss_steps": str(step)})
    write(tmp_path / "sub" / "lucy.safetensors", {"ss_steps": "1200"})
    write(tmp_path / "other.safetensors")
    assert names(Library(), tmp_path) == {
        "lucy": ["lucy-000400", "lucy-000800", "lucy-001200", "lucy"],
        "other": ["other"],
    }


def test_types_folders_and_trainings_of_one_name_are_runs_of_their_own(tmp_path: Path) -> None:
    session = {"ss_training_started_at": "1700000000", "ss_session_id": "1"}
    later = {"ss_training_started_at": "1700009999", "ss_session_id": "2"}
    write(tmp_path / "a" / "lucy-000400.safetensors", {**session, "ss_steps": "400"})
    write(tmp_path / "b" / "lucy-000400.safetensors", {**session, "ss_steps": "400"})
    write(tmp_path / "a" / "lucy-000800.safetensors", {**session, "ss_steps": "800"}, rank=4)
    # Trained again under the name, and the first training's last files were left.
    write(tmp_path / "c" / "lucy-000400.safetensors", {**later, "ss_steps": "400"})
    write(tmp_path / "c" / "lucy-000800.safetensors", {**session, "ss_steps": "800"})
    # Interrupted and gone on with: kohya calls that a session of its own.
    write(tmp_path / "d" / "lucy-000400.safetensors", {**session, "ss_steps": "400"})
    write(tmp_path / "d" / "lucy-000800.safetensors", {**later, "ss_steps": "800"})
    found = Library().scan([tmp_path]).runs
    by_folder = {folder: sorted(len(run.entries) for run in found if run.folder.name == folder) for folder in "abcd"}
    assert by_folder == {"a": [1, 1], "b": [1], "c": [1, 1], "d": [2]}


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "lucy-000400.safetensors", {"ss_steps": "400"})
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of that kind")
    library = Library()
    for _ in range(3):
        library.scan([tmp_path, tmp_path / "nowhere"])
    assert library.reads == 2
    write(tmp_path / "new.safetensors", {"ss_steps": "500"}).replace(path)
    os.utime(path, ns=(0, 123456789))
    entry = library.scan([tmp_path]).entries[0]
    assert library.reads == 3 and entry.lineage.step == 500
    path.unlink()
    assert library.scan([tmp_path]).entries == []


def test_what_was_found_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    place, folder = tmp_path / "kept" / "library.json", tmp_path / "Lora"
    write(folder / "lucy-000400.safetensors", {"ss_steps": "400", "ss_dataset_dirs": "{}"})
    (folder / "broken.safetensors").write_bytes(b"not a file of that kind")
    first = Library(place)
    found = first.scan([folder]).entries
    again = Library(place)
    assert again.scan([folder]).entries == found and again.reads == 0 and first.reads == 2
    write(folder / "lucy-000800.safetensors", {"ss_steps": "800"})
    assert len(again.scan([folder]).entries) == 2 and again.reads == 1
    for damaged in ('{"format": "0"}', "[", '{"format": 1, "files": [1]}', "null"):
        place.write_text(damaged)
        anew = Library(place)
        assert len(anew.scan([folder]).entries) == 2 and anew.reads == 3
    place.unlink()
    place.mkdir()  # where nothing can be written
    assert len(Library(place).scan([folder]).entries) == 2


def test_a_loop_of_links_is_walked_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "lucy.safetensors")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "gone.safetensors").symlink_to(tmp_path / "nothing")
    assert len(Library().scan([tmp_path, tmp_path / "a"]).entries) == 1


def test_five_hundred_files_are_looked_through_in_no_time_once_they_are_known(tmp_path: Path) -> None:
    first = write(tmp_path / "run0-000000.safetensors")
    for number in range(1, 500):
        os.link(first, tmp_path / f"run{number // 10}-{number % 10:06d}.safetensors")
    library = Library()
    library.scan([tmp_path])
    start = time.process_time()
    shelf = library.scan([tmp_path])
    assert library.reads == 500 and len(shelf.runs) == 50
    assert time.process_time() - start < 0.5


def test_the_nearest_step_is_taken_the_earlier_of_two(tmp_path: Path) -> None:
    for step in (1000, 2000, 4000):
        write(tmp_path / f"lucy-{step:06d}.safetensors", {"ss_steps": str(step)})
    run = Library().scan([tmp_path]).runs[0]
    assert [run.nearest(step).lineage.step for step in (0, 1500, 1501, 9000)] == [1000, 1000, 2000, 4000]
