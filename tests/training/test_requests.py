"""What a person asks of a run while it trains changes nothing of what it learns."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file

from adapter_lab import config_file
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs import requests
from adapter_lab.training.loop import resume, train
from tests.support.training import events_of, losses_of, tiny_config


def at(step: int, action):
    """A listener that acts once, after `step`."""
    return lambda event: action() if (event["event"], event.get("step")) == ("step", step) else None


def same_weights(first, second) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


@pytest.mark.parametrize("trained_text", [False, True])
def test_saving_showing_and_other_prompts_change_nothing_that_is_learned(tmp_path, trained_text):
    options = {"run__steps": 5, "preview__steps": 1, "preview__baseline": False, "network__train_te": trained_text}
    options["preview__prompts"] = ["first"]
    whole = train(tiny_config(tmp_path / "whole", **options))
    folder = tmp_path / "asked" / "run"

    def ask() -> None:
        requests.request_save(folder)
        requests.set_prompts(folder, ["a red thing", "another"])
        requests.request_sample(folder)

    asked = train(tiny_config(tmp_path / "asked", **options), folder, on_event=at(2, ask))
    assert losses_of(asked.run_folder) == losses_of(whole.run_folder)
    assert same_weights(asked.adapters[-1], whole.adapters[-1])
    assert [(e["step"], e["requested"], e["final"]) for e in events_of(folder, "saved")] == [
        (2, True, False),
        (5, False, True),
    ]
    shown = events_of(folder, "sample")
    assert [(e["step"], e["prompts"]) for e in shown] == [(s, ["a red thing", "another"]) for s in (2, 5)]
    assert [e["step"] for e in events_of(folder, "pictures")] == [2, 5]
    assert requests.present(folder) == frozenset()
    assert config_file.load(folder / "config.toml").preview.prompts == ["a red thing", "another"]

    from_there = tmp_path / "again"
    shutil.copytree(folder, from_there)
    for state in (from_there / "state").glob("*5.pt"):
        state.unlink()
    again = resume(from_there)
    assert losses_of(again.run_folder) == losses_of(whole.run_folder)
    assert same_weights(again.adapters[-1], whole.adapters[-1])


def test_prompts_given_from_the_start_and_while_training_give_the_same_pictures(tmp_path):
    options = {"run__steps": 3, "preview__steps": 1, "preview__baseline": False}
    given = train(tiny_config(tmp_path / "given", preview__prompts=["a red thing"], **options))
    folder = tmp_path / "asked" / "run"
    changed = at(1, lambda: requests.set_prompts(folder, ["a red thing"]))
    train(tiny_config(tmp_path / "asked", preview__prompts=["other"], **options), folder, on_event=changed)
    name = "samples/000003-0.png"
    assert (folder / name).read_bytes() == (given.run_folder / name).read_bytes()


def test_a_checkpoint_that_vanishes_costs_sample_pictures_and_not_the_training(tmp_path):
    config = tiny_config(tmp_path, preview__prompts=["a"], preview__steps=1, preview__baseline=False)
    base = tmp_path / "base.safetensors"
    shutil.copyfile(config.base.checkpoint, base)
    config.base.checkpoint = str(base)
    folder = tmp_path / "run"

    def ask() -> None:
        base.unlink()
        requests.set_prompts(folder, ["b"])

    train(config, folder, on_event=at(1, ask))
    said = [event["message"] for event in events_of(folder, "warning")]
    assert any("prompts were not changed" in sentence for sentence in said)
    assert any("images could not be made" in sentence for sentence in said)
    assert config_file.load(folder / "config.toml").preview.prompts == ["a"]
    assert len(losses_of(folder)) == config.run.steps


def test_a_run_told_to_show_nothing_any_more_can_be_resumed(tmp_path):
    config = tiny_config(tmp_path, preview__prompts=["a"], preview__steps=1, preview__baseline=False)
    folder = tmp_path / "run"
    train(config, folder, on_event=at(1, lambda: requests.set_prompts(folder, [])))
    assert events_of(folder, "sample") == []
    assert resume(folder, {"run.steps": 4}).steps == 4


def test_a_run_whose_folder_is_deleted_ends_in_a_sentence(tmp_path):
    folder = tmp_path / "run"
    config = tiny_config(tmp_path, run__steps=50)
    with pytest.raises(AdapterLabError, match="was deleted while the run trained"):
        train(config, folder, on_event=at(2, lambda: shutil.rmtree(folder)))
    assert not folder.exists()
