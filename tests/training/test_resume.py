"""A run that is killed at any moment and resumed gives the same losses and the same files, bit for bit (on a CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_lab import config_file
from adapter_lab.config import OWN_OPTIMIZERS, TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs.events import read_events, read_lines
from adapter_lab.training.loop import RunResult, resume, train
from tests.support import killed_runs
from tests.support.training import draw_pictures, losses_of, tiny_config

MOMENTS = (
    "event:cached",
    "event:step:3",
    "replaced:000002.safetensors:1",
    "write:step-00000004:1",
    "replaced:step-00000004.pt:1",
    "replaced:adapter.safetensors:1",
    "operation:175000",
)
MORE_MOMENTS = (
    "event:started",
    "event:step:1",
    "write:000002.safetensors:1",
    "replace:000002.safetensors:1",
    "replace:step-00000004.pt:1",
    "event:sample:4",
    "event:state:5",
    "event:finished",
    "operation:3000",
    "operation:60000",
    "operation:110000",
    "operation:275000",
)


def everything_random(folder: Path) -> TrainConfig:
    """A run in which all that can be random is, and all state there can be is kept."""
    return tiny_config(
        folder,
        "sdxl",
        pictures=5,
        run__steps=5,
        run__seed=7,
        optimizer__name="prodigy",
        optimizer__lr="auto",
        optimizer__d0=1e-3,
        optimizer__te1_lr=0.5,
        optimizer__schedule="cosine",
        optimizer__warmup_steps=2,
        optimizer__gradient_accumulation=2,
        optimizer__clip_grad_norm=1.0,
        network__train_te=True,
        network__dropout=0.1,
        network__rank_dropout=0.1,
        network__module_dropout=0.1,
        dataset__shuffle_tags=True,
        dataset__tag_dropout=0.2,
        dataset__caption_dropout=0.2,
        dataset__flip=True,
        dataset__cache_latents="disk",
        loss__noise_offset=0.05,
        loss__multires_noise_iterations=2,
        loss__min_snr_gamma=5.0,
        loss__input_perturbation=0.1,
        save__every_steps=2,
        save__ema=0.9,
        preview__prompts=["sks"],
        preview__steps=1,
        precision__gradient_checkpointing=True,
    )


def run_and_kill(root: Path, moments: tuple[str, ...]) -> tuple[RunResult, dict[str, Path]]:
    """One uninterrupted run, and the folders of one run per moment, killed then."""
    config = everything_random(root)
    config_file.write(config, root / "config.toml")
    folders = {moment: root / moment.replace(":", "-") / "run" for moment in moments}
    for folder in folders.values():
        folder.parent.mkdir()
    pairs = [text for moment, folder in folders.items() for text in (str(folder), moment)]
    whole = train(config, root / "whole" / "run")
    command = [sys.executable, killed_runs.__file__, str(root / "config.toml"), *pairs]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900, env=environment)
    assert [line.split()[1] for line in ended.stdout.splitlines()] == ["9"] * len(moments), ended.stdout
    return whole, folders


@pytest.fixture(scope="module", autouse=True)
def fixed_clock():
    """With the clock in the metadata fixed, whole files can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        yield


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return run_and_kill(tmp_path_factory.mktemp("killed"), MOMENTS)


@pytest.fixture(scope="module")
def killed_more(tmp_path_factory):
    return run_and_kill(tmp_path_factory.mktemp("killed"), MORE_MOMENTS)


def same_story(folder: Path) -> list[Any]:
    """What the events of a run tell about training, without times and places."""
    return [
        [event["step"], event["loss"], event["epoch"], event["rates"]]
        for event in read_events(folder / "events.jsonl")
        if event["event"] == "step"
    ]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_as_if_it_had_not_been(killed, moment):
    check_resumed(*killed, moment)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MORE_MOMENTS)
def test_a_run_killed_at_yet_other_moments_too(killed_more, moment):
    check_resumed(*killed_more, moment)


def check_resumed(whole: RunResult, folders: dict[str, Path], moment: str) -> None:
    """The run killed at `moment` goes on to what the whole run came to."""
    result = resume(folders[moment])
    assert result.steps == 5
    assert same_story(result.run_folder) == same_story(whole.run_folder)
    assert [path.name for path in result.adapters] == [path.name for path in whole.adapters]
    for path, expected in zip(result.adapters, whole.adapters):
        assert path.read_bytes() == expected.read_bytes(), path.name
    assert result.final_loss == whole.final_loss
    assert result.pictures == whole.pictures
    for sample in (whole.run_folder / "samples").iterdir():
        assert (result.run_folder / "samples" / sample.name).read_bytes() == sample.read_bytes()
    left = [path.name for path in result.run_folder.rglob("*") if path.suffix in (".tmp", ".part")]
    assert left == []


@pytest.mark.parametrize("name", [name for name in OWN_OPTIMIZERS if name not in ("prodigy", "adamw8bit")])
def test_every_optimizer_resumes_exactly(tmp_path, name):
    changes = {"optimizer__name": name, "optimizer__lr": "auto" if name.startswith("prodigy") else 1e-3}
    config = tiny_config(tmp_path, run__steps=5, save__dtype="fp32", **changes)
    whole = train(config)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            (tmp_path / "run" / "stop").touch()

    assert train(config, tmp_path / "run", on_event=stop).steps == 3
    result = resume(tmp_path / "run")
    assert losses_of(result.run_folder) == losses_of(whole.run_folder)
    assert _tensors(result.adapters[-1]) == _tensors(whole.adapters[-1])


def _tensors(path: Path) -> bytes:
    """The bytes of a file's tensors, without its metadata."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_a_finished_run_can_be_given_more_steps_and_keeps_its_earlier_end(tmp_path):
    config = tiny_config(tmp_path, run__steps=2)
    first = train(config)
    earlier = first.adapters[-1].read_bytes()
    longer = resume(first.run_folder, {"run.steps": 4})
    assert [path.name for path in longer.adapters] == ["adapter-000002.safetensors", "adapter.safetensors"]
    assert longer.adapters[0].read_bytes() == earlier
    assert config_file.load(first.run_folder / "config.toml").run.steps == 4
    config.run.steps = 4
    assert losses_of(first.run_folder) == losses_of(train(config).run_folder)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = train(tiny_config(tmp_path, run__steps=2))
    before = first.adapters[-1].read_bytes()
    again = resume(first.run_folder)
    assert (again.steps, again.reason) == (2, first.reason)
    assert again.adapters == first.adapters
    assert first.adapters[-1].read_bytes() == before
    assert again.final_loss == first.final_loss


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network.dim": 8}, r"network\.dim cannot be changed"),
        ({"run.seed": 8}, r"run\.seed cannot be changed"),
        ({"save.ema": 0.9}, r"save\.ema cannot be changed"),
        ({"run.setps": 8}, r"run\.setps is no setting"),
        ({"run.steps": -1}, r"run\.steps"),
    ],
)
def test_changes_that_would_make_another_run_are_refused(tmp_path, change, said):
    first = train(tiny_config(tmp_path, run__steps=1))
    before = (first.run_folder / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=said):
        resume(first.run_folder, change)
    assert (first.run_folder / "config.toml").read_bytes() == before


def test_pictures_that_changed_meanwhile_are_named(tmp_path):
    config = tiny_config(tmp_path, run__steps=1)
    first = train(config)
    draw_pictures(Path(config.dataset.folder), 5)
    with pytest.raises(AdapterLabError, match="a change of the images or captions"):
        resume(first.run_folder, {"run.steps": 2})


def test_a_setting_edited_by_hand_is_named(tmp_path):
    first = train(tiny_config(tmp_path, run__steps=1))
    config = config_file.load(first.run_folder / "config.toml")
    config.optimizer.lr = 0.5
    config.run.steps = 2
    config_file.write(config, first.run_folder / "config.toml")
    with pytest.raises(AdapterLabError, match=r"a change of optimizer\.lr; put it back"):
        resume(first.run_folder)


def test_a_broken_newest_state_costs_steps_not_the_run(tmp_path):
    config = tiny_config(tmp_path, run__steps=4, save__every_steps=2)
    whole = train(config)
    newest = sorted((whole.run_folder / "state").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    result = resume(whole.run_folder)
    assert result.steps == 4
    warnings = [e["message"] for e in read_lines(result.run_folder / "events.jsonl") if e["event"] == "warning"]
    assert any(newest.name in message for message in warnings)


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        resume(tmp_path)


def test_other_work_between_steps_does_not_change_the_training(tmp_path):
    config = tiny_config(tmp_path, network__dropout=0.3, network__module_dropout=0.2)

    def disturb(event: dict[str, Any]) -> None:
        torch.rand(17)

    assert losses_of(train(config).run_folder) == losses_of(train(config, on_event=disturb).run_folder)
