"""Resuming after images or captions were changed: what changed is named, and may be accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.cli import main
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs import requests
from adapter_lab.training.loop import resume, train
from tests.support.pictures import noise
from tests.support.training import events_of, losses_of, tiny_config

MORE = {"run.steps": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a run of two steps."""
    root = tmp_path_factory.mktemp("changed")
    train(tiny_config(root, run__steps=2, save__every_steps=1), root / "run")
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run and its images, whose folder is the copy."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path / "run"


@pytest.mark.parametrize(("change", "said"), [
    (lambda p: (p / "1.txt").write_text("sks, corrected"), r"the caption of 1 image \(1\.png\)"),
    (lambda p: noise(64, 64).save(p / "2.png"), r"the content of 1 image \(2\.png\)"),
    (lambda p: (p / "3.png").unlink(), r"the loss of 1 image \(3\.png\)"),
    (lambda p: noise(64, 64).save(p / "new.png"), r"the addition of 1 image \(new\.png\)"),
    (lambda p: noise(96, 64).save(p / "0.png"), r"the content of 1 image .*, the repeats, size or caption rules of"),
])  # fmt: skip
def test_what_changed_is_named_with_the_ways_on(run: Path, change, said: str) -> None:
    change(run.parent / "pictures")
    with pytest.raises(AdapterLabError, match=said) as refused:
        resume(run, MORE)
    sentence = str(refused.value)
    assert "--accept-pictures" in sentence and "network.start_from = " in sentence
    assert Path(sentence.rsplit("network.start_from = ", 1)[1].rstrip(".")).exists()


def test_an_accepted_change_is_said_and_trained_on(run: Path) -> None:
    (run.parent / "pictures/1.txt").write_text("sks, corrected")
    result = resume(run, MORE, accept_pictures=True)
    assert result.steps == 4 and len(losses_of(run)) == 4
    said = [event["message"] for event in events_of(run, "warning") if "As accepted" in event["message"]]
    assert len(said) == 1 and "1 image (1.png)" in said[0] and "bit for bit" in said[0]


def test_an_acceptance_holds_where_the_next_session_saved_nothing(run: Path) -> None:
    (run.parent / "pictures/1.txt").write_text("sks, corrected")
    kept = {path: path.read_bytes() for path in (run / "state").iterdir()}
    resume(run, MORE, accept_pictures=True)
    for path in (run / "state").iterdir():
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    assert resume(run, MORE).steps == 4


def test_the_command_line_and_the_tab_can_accept(run: Path) -> None:
    (run.parent / "pictures/1.txt").write_text("sks, corrected")
    assert main(["resume", str(run), "--set", "run.steps=3", "--accept-pictures"]) == 0
    (run.parent / "pictures/2.txt").write_text("sks, corrected too")
    requests.accept_pictures(run)  # what the worker leaves for the process that it starts
    assert resume(run, MORE).steps == 4
    assert not (run / "accept-pictures").exists()


def test_other_changes_cannot_be_accepted_but_the_way_on_is_said(run: Path) -> None:
    (run.parent / "pictures/1.txt").write_text("sks, corrected")
    config = config_file.load(run / "config.toml")
    config.run.batch_size = 1
    config_file.write(config, run / "config.toml")
    with pytest.raises(AdapterLabError, match=r"the caption of 1 image.*run\.batch_size") as refused:
        resume(run, MORE, accept_pictures=True)
    assert "accept it" not in str(refused.value) and "start a new run with network.start_from" in str(refused.value)


def test_a_run_of_an_older_release_has_no_names_but_the_same_ways_on(run: Path) -> None:
    (run / "pictures.json").unlink()
    (run.parent / "pictures/1.txt").write_text("sks, corrected")
    with pytest.raises(AdapterLabError, match=r"a change of the images or captions; .*--accept-pictures"):
        resume(run, MORE)
    (run / "pictures.json").write_text(json.dumps({"pictures": 7}))
    assert resume(run, MORE, accept_pictures=True).steps == 4
