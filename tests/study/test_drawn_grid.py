"""`adapter-lab grid`: the files of runs and studies by type and step."""

from __future__ import annotations

import pytest
from PIL import Image

from adapter_lab.cli import main
from adapter_lab.study.pictures.drawn_grid import draw_grid
from adapter_lab.training.loop import train
from tests.support.training import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of other types, saved at steps 1 and 2, and at steps 2 and 3."""
    root = tmp_path_factory.mktemp("runs")
    first = tiny_config(root, run__steps=2, run__name="a", save__every_steps=1)
    second = tiny_config(root, run__steps=3, run__name="b", save__every_steps=2, network__algo="lokr")
    return root, [train(first).run_folder, train(second).run_folder], first


def config_for(runs):
    config = runs[2]
    config.preview.prompts, config.preview.steps = ["sks", "thing"], 2
    config.preview.width = config.preview.height = 64
    return config


def test_runs_that_saved_equally_often_stand_side_by_side_with_their_steps_written_in(runs):
    grid = draw_grid(config_for(runs), runs[1])
    assert [row.split()[0] for row in grid.rows] == ["LoRA", "LoKr"]
    assert grid.columns == ["base", "1/2", "2/2"]
    assert grid.remarks == []


def test_a_step_a_run_does_not_have_shows_the_nearest(runs):
    [first, second] = runs[1]
    files = [*sorted((first / "adapters").iterdir()), sorted((second / "adapters").iterdir())[0]]
    grid = draw_grid(config_for(runs), files, baseline=False)
    assert grid.columns == ["1", "2"]
    assert len(grid.rows) == 2


def test_the_command_writes_a_grid_and_says_what_it_left_out(runs, tmp_path, capsys):
    config = config_for(runs)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"no")
    arguments = ["grid", str(runs[1][0]), str(folder), "--base", config.base.checkpoint, "--prompts", "sks"]
    arguments += ["--preview-steps", "1", "--width", "64", "--height", "64", "--out", str(tmp_path / "grid.png")]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "broken.safetensors is no adapter file" in capsys.readouterr().out
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 3 * 64 and picture.height > 64


def test_a_folder_without_adapters_is_said(runs, tmp_path, capsys):
    arguments = ["grid", str(tmp_path), "--base", runs[2].base.checkpoint, "--prompts", "sks"]
    assert main(arguments) == 2
    assert "No adapter file was found" in capsys.readouterr().err
