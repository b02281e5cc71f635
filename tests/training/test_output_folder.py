"""Where a run saves its adapters: a folder that cannot be written is said before, and what fails later is not lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from adapter_lab.errors import ConfigError
from adapter_lab.runs.events import read_events
from adapter_lab.training.loop import resume, train
from tests.support.training import tiny_config


def unwritable(folder: Path) -> Path:
    """A folder that cannot be made, whoever tries, since a file lies in its way."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    return folder / "adapters"


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__output_folder=str(unwritable(tmp_path / "file")))
    with pytest.raises(ConfigError, match=r"No file can be written into .*choose another folder in run\.output_folder"):
        train(config, tmp_path / "run")
    assert [event["event"] for event in read_events(tmp_path / "run" / "events.jsonl")] == ["started", "failed"]
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    result = resume(tmp_path / "run", {"run.output_folder": str(tmp_path / "other")})
    assert Path(result.adapters[-1]).parent == tmp_path / "other" and result.steps == 3


def test_what_cannot_be_saved_where_it_should_is_saved_in_the_run_folder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__output_folder=str(tmp_path / "out"), save__every_steps=1)

    def in_the_way(event: dict[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 1:
            shutil.rmtree(tmp_path / "out")
            (tmp_path / "out").write_text("a file in its place")

    result = train(config, tmp_path / "run", on_event=in_the_way)
    names = sorted(path.name for path in (tmp_path / "run" / "adapters").iterdir())
    assert names == ["adapter-000002.safetensors", "adapter.safetensors"]
    assert Path(result.adapters[-1]) == tmp_path / "run" / "adapters" / "adapter.safetensors"
    warnings_ = [e["message"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "warning"]
    assert len([text for text in warnings_ if "are saved in" in text and "from now on" in text]) == 1


def test_a_run_may_go_on_into_another_output_folder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__output_folder=str(tmp_path / "one"))
    train(config, tmp_path / "run")
    result = resume(tmp_path / "run", {"run.steps": 5, "run.output_folder": str(tmp_path / "two")})
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["adapter.safetensors"]
    assert (tmp_path / "one" / "adapter.safetensors").exists() and result.steps == 5


def test_another_run_s_files_in_the_new_folder_are_kept(tmp_path: Path) -> None:
    one = tiny_config(tmp_path, run__output_folder=str(tmp_path / "one"), save__every_steps=1)
    other = tiny_config(tmp_path, run__output_folder=str(tmp_path / "two"), save__every_steps=1, run__seed=9)
    train(one, tmp_path / "run")
    train(other, tmp_path / "other")
    before = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    changes = {"run.steps": 5, "run.output_folder": str(tmp_path / "two"), "save.keep_last": 0}
    result = resume(tmp_path / "run", changes)
    assert {name: (tmp_path / "two" / name).read_bytes() for name in before} == before
    assert [path.name for path in result.adapters][-1] == "adapter_2.safetensors"
