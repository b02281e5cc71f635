"""Whole runs on tiny bases: what is trained, written, said, and how a run ends."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_lab import config_file
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError, TrainingStopped
from adapter_lab.runs.events import EventLog
from adapter_lab.training.loop import resume, train
from adapter_lab.training.output.checkpoint import load_latest
from tests.support.training import draw_pictures, events_of, losses_of, tiny_base, tiny_config


def modules_by_part(path: Path) -> dict[str, int]:
    """How many modules of each part a file has."""
    counts: dict[str, int] = {}
    for name in AdapterFile.open(path).modules:
        part = "_".join(name.split("_")[:2])
        counts[part] = counts.get(part, 0) + 1
    return counts


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(
    ("family", "train_te", "parts"),
    [
        ("sd15", False, {"lora_unet"}),
        ("sd15", True, {"lora_unet", "lora_te"}),
        ("sd2", False, {"lora_unet"}),
        ("sdxl", False, {"lora_unet"}),
        ("sdxl", True, {"lora_unet", "lora_te1", "lora_te2"}),
    ],
)
def test_a_run_writes_what_it_promises(tmp_path, family, train_te, parts):
    config = tiny_config(tmp_path, family, network__train_te=train_te, save__every_steps=2)
    seen: list[dict[str, Any]] = []
    result = train(config, on_event=seen.append)

    assert result.steps == 3
    assert result.reason == "all 3 steps done"
    assert [path.name for path in result.adapters] == ["adapter-000002.safetensors", "adapter.safetensors"]
    early, final = (weights(path) for path in result.adapters)
    assert set(modules_by_part(result.adapters[-1])) == parts
    # Every module of every part learned something, and went on learning, but for two that cannot: SDXL reads the last
    # but one layer of its first text encoder, and in the middle of SD1.5 at 64 px there is one position to attend to.
    unused = re.compile(r"lora_te1_text_model_encoder_layers_2_|lora_unet_mid(dle)?_.*_attn1_to_[qk]")
    for name, tensor in final.items():
        assert torch.isfinite(tensor).all()
        if name.endswith("lora_up.weight") and not unused.match(name):
            assert tensor.abs().max() > 0, name
            assert not torch.equal(tensor, early[name]), name

    folder = result.run_folder
    assert config_file.load(folder / "config.toml") == config
    losses = losses_of(folder)
    assert len(losses) == 3
    assert result.final_loss == pytest.approx(sum(losses) / 3)
    assert [event["progress"] for event in events_of(folder, "step")] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-5)
    kinds = [event["event"] for event in seen]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert {"dataset", "note", "cached", "step", "saved", "state"} <= set(kinds)
    assert sorted(entry["picture"] for entry in result.pictures) == sorted(f"pictures/{i}.png" for i in range(4))
    assert result.seconds > 0
    assert (folder / "log.txt").exists()
    assert list((folder / "tensorboard").iterdir())
    assert not (folder / "process.json").exists()


def test_metadata_is_what_hosts_look_for(tmp_path):
    config = tiny_config(tmp_path, "sdxl", run__name="hana", run__steps=2, dataset__trigger="sks")
    path = train(config).adapters[-1]
    found = AdapterFile.open(path).metadata
    assert path.name == "hana.safetensors"
    assert found["ss_output_name"] == found["modelspec.title"] == "hana"
    assert found["ss_base_model_version"].startswith("sdxl_")
    assert found["ss_v2"] == "False"
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert found["modelspec.prediction_type"] == "epsilon"
    assert found["modelspec.trigger_phrase"] == "sks"
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "4.0")
    assert (found["ss_steps"], found["ss_max_train_steps"]) == ("2", "2")
    assert json.loads(found["ss_tag_frequency"])["pictures"]["red"] == 4
    assert json.loads(found["ss_dataset_dirs"])["pictures"] == {"n_repeats": 1, "img_count": 4}
    assert json.loads(found["ss_bucket_info"])["buckets"]["0"] == {"resolution": [64, 64], "count": 4}
    assert len(found["sshs_model_hash"]) == 64
    embedded = config_file.loads(found["adapter_lab.config"])
    assert embedded.network == config.network
    assert embedded.dataset.folder == "pictures"
    assert str(tmp_path) not in json.dumps(found)


def test_training_lowers_the_loss(tmp_path):
    config = tiny_config(
        tmp_path, pictures=1, run__steps=25, run__batch_size=1, loss__timestep_min=900, loss__timestep_max=900,
        optimizer__lr=2e-2, network__train_te=True, network__feed_forward=True, network__projections=True,
        network__conv_dim=4,
    )  # fmt: skip
    losses = losses_of(train(config).run_folder)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_v_prediction_and_zero_terminal_snr_are_trained_as_detected(tmp_path):
    losses = {}
    for kind in (False, True):
        config = tiny_config(tmp_path / str(kind), "sdxl", run__steps=1)
        config.base.checkpoint = str(tiny_base("sdxl", v_prediction=kind))
        result = train(config)
        losses[kind] = losses_of(result.run_folder)
        found = AdapterFile.open(result.adapters[-1]).metadata
        assert found["modelspec.prediction_type"] == ("v" if kind else "epsilon")
        assert found["ss_zero_terminal_snr"] == str(kind)
    assert losses[False] != losses[True]


def close(one: list[float], other: list[float]) -> bool:
    return torch.allclose(torch.tensor(one), torch.tensor(other), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"run__batch_size": 2, "optimizer__gradient_accumulation": 2},
        {"run__batch_size": 1, "optimizer__gradient_accumulation": 4},
        {"precision__gradient_checkpointing": True},
        {"dataset__cache_latents": "off"},
        {"dataset__cache_latents": "disk"},
        {"dataset__cache_text": "off"},
        {"precision__phased_loading": False},
        {"preview__prompts": ["sks, red"], "preview__steps": 2, "save__every_steps": 1},
    ],
    ids=str,
)
def test_what_should_not_change_the_training_does_not(tmp_path, changes, plain_run):
    result = train(tiny_config(tmp_path, "sdxl", **{"run__batch_size": 4, **changes}))
    expected_losses, expected = plain_run
    assert close(losses_of(result.run_folder), expected_losses)
    # AdamW's first steps turn rounding errors of tiny gradients into full steps, so weights are compared loosely.
    found = weights(result.adapters[-1])
    differences = torch.cat([(found[name].float() - expected[name].float()).flatten().abs() for name in expected])
    assert differences.median() < 1e-4


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    result = train(tiny_config(tmp_path_factory.mktemp("plain"), "sdxl", run__batch_size=4))
    return losses_of(result.run_folder), weights(result.adapters[-1])


def test_training_the_text_encoders_alone_with_checkpointing(tmp_path):
    config = tiny_config(
        tmp_path, "sdxl", network__train_unet=False, network__train_te=True, network__projections=True,
        precision__gradient_checkpointing=True,
    )  # fmt: skip
    final = train(config).adapters[-1]
    assert set(modules_by_part(final)) == {"lora_te1", "lora_te2"}
    ups = {name: tensor for name, tensor in weights(final).items() if name.endswith("lora_up.weight")}
    assert sum(tensor.abs().max() > 0 for tensor in ups.values()) == len(ups) - 4  # te1's last layer is never read


def test_parts_have_rates_of_their_own(tmp_path):
    config = tiny_config(
        tmp_path, "sdxl", network__train_te=True, optimizer__lr=1e-3, optimizer__te1_lr=1e-4, optimizer__te2_lr=1e-5,
        optimizer__schedule="linear", optimizer__warmup_steps=2, run__steps=4,
    )  # fmt: skip
    steps = events_of(train(config).run_folder, "step")
    rates = [{part: values["lr"] for part, values in step["rates"].items()} for step in steps]
    for step, factor in enumerate([0.5, 1, 1, 0.5]):
        assert rates[step] == pytest.approx({"unet": 1e-3 * factor, "te1": 1e-4 * factor, "te2": 1e-5 * factor})


def test_prodigy_logs_its_estimate(tmp_path):
    config = tiny_config(tmp_path, optimizer__name="prodigy", optimizer__lr="auto")
    step = events_of(train(config).run_folder, "step")[0]
    assert step["rates"]["unet"] == pytest.approx({"lr": 1e-4, "d": 1e-4, "d_hat": 1e-4})


@pytest.mark.parametrize("storage", ["fp8", "int8"])
def test_bf16_with_compressed_base_weights(tmp_path, storage):
    config = tiny_config(tmp_path, "sdxl", precision__mixed="bf16", precision__base_weights=storage, run__steps=2)
    result = train(config)
    assert events_of(result.run_folder, "started")[0]["format"] == "bfloat16"
    assert all(torch.isfinite(tensor).all() for tensor in weights(result.adapters[-1]).values())


def test_captions_that_vary_are_encoded_in_each_step_and_that_is_said(tmp_path):
    config = tiny_config(tmp_path, dataset__shuffle_tags=True, run__steps=2)
    folder = train(config).run_folder
    assert any("captions vary" in event["message"] for event in events_of(folder, "note"))
    assert [event["what"] for event in events_of(folder, "cached")] == ["latents"]


def test_captions_of_unequal_length_share_a_batch_and_long_ones_are_named_once(tmp_path):
    config = tiny_config(tmp_path, "sdxl", run__batch_size=4, dataset__token_chunks=2, run__steps=2)
    (Path(config.dataset.folder) / "1.txt").write_text("word " * 30)
    (Path(config.dataset.folder) / "2.txt").write_text("far too long " * 40)
    cached = train(config)
    said = [e["message"] for e in events_of(cached.run_folder, "warning") if "cut off" in e["message"]]
    assert len(said) == 1
    assert said[0].startswith("1 of 4 captions are longer than 150 tokens")
    config.dataset.cache_text = "off"
    assert close(losses_of(train(config).run_folder), losses_of(cached.run_folder))


def test_class_pictures_with_weight_zero_teach_nothing(tmp_path):
    draw_pictures(tmp_path / "classes", 2)
    changes: dict[str, Any] = {"dataset__regularisation_folder": str(tmp_path / "classes"), "run__batch_size": 4}
    weighted = losses_of(train(tiny_config(tmp_path / "a", pictures=2, run__steps=1, **changes)).run_folder)
    config = tiny_config(tmp_path / "b", pictures=2, run__steps=1, loss__prior_weight=0.0, **changes)
    assert losses_of(train(config).run_folder)[0] < 0.75 * weighted[0]


def test_validation_and_previews_at_every_saving_point(tmp_path):
    config = tiny_config(
        tmp_path, "sdxl", dataset__validation_fraction=0.25, preview__prompts=["sks", "red"], preview__steps=2,
        save__every_steps=2, run__steps=4, network__train_te=True,
    )  # fmt: skip
    folder = train(config).run_folder
    assert [event["step"] for event in events_of(folder, "validation")] == [2, 4]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        f"{name}-{index}.png" for name in ("000002", "000004", "baseline") for index in (0, 1)
    ]
    assert [event["step"] for event in events_of(folder, "sample")] == [0, 2, 4]
    first, last = (event["loss"] for event in events_of(folder, "validation"))
    assert first != last
    again = train(config)
    assert [e["loss"] for e in events_of(again.run_folder, "validation")] == [first, last]


def test_the_baseline_picture_is_the_base_models_own(tmp_path):
    options = {"preview__prompts": ["sks"], "preview__steps": 2}
    fresh = train(tiny_config(tmp_path / "a", **options)).run_folder / "samples"
    assert (fresh / "baseline-0.png").read_bytes() != (fresh / "000003-0.png").read_bytes()
    started = tiny_config(tmp_path / "b", **options, run__steps=1)
    started.network.start_from = str(next((fresh.parent / "adapters").iterdir()))
    samples = train(started).run_folder / "samples"
    assert (samples / "baseline-0.png").read_bytes() == (fresh / "baseline-0.png").read_bytes()


def test_keep_last_counts_numbered_files_only(tmp_path):
    config = tiny_config(tmp_path, run__steps=5, save__every_steps=1, save__keep_last=2, save__keep_states=1)
    result = train(config)
    names = sorted(path.name for path in (result.run_folder / "adapters").iterdir())
    assert names == ["adapter-000003.safetensors", "adapter-000004.safetensors", "adapter.safetensors"]
    assert sorted(path.name for path in result.adapters) == names
    assert len(list((result.run_folder / "state").iterdir())) == 1


def test_ema_is_saved_and_the_raw_weights_go_on_training(tmp_path):
    plain = train(tiny_config(tmp_path / "a", run__steps=4, save__dtype="fp32"))
    averaged = train(tiny_config(tmp_path / "b", run__steps=4, save__dtype="fp32", save__ema=0.99))
    assert losses_of(plain.run_folder) == losses_of(averaged.run_folder)
    raw, mean = weights(plain.adapters[-1]), weights(averaged.adapters[-1])
    name = next(name for name in raw if name.endswith("lora_up.weight"))
    assert 0 < mean[name].abs().mean() < raw[name].abs().mean()
    state, _ = load_latest(averaged.run_folder / "state")
    assert any(torch.equal(value, raw[name]) for value in state.weights.values() if value.shape == raw[name].shape)


def test_prodigy_plus_schedule_free_saves_its_average(tmp_path):
    config = tiny_config(
        tmp_path, "sdxl", optimizer__name="prodigy-plus-schedule-free", optimizer__lr="auto", run__steps=4,
        optimizer__d0=1e-2, save__every_steps=2, save__dtype="fp32",
    )  # fmt: skip
    result = train(config)
    state, _ = load_latest(result.run_folder / "state")
    final = weights(result.adapters[-1])
    # The middle block sees one token at 64 px, so its self-attention's queries and keys get no gradient.
    still = ("middle_block_1_transformer_blocks_0_attn1_to_q", "middle_block_1_transformer_blocks_0_attn1_to_k")
    ups = {name for name in final if name.endswith("lora_up.weight") and not any(part in name for part in still)}
    assert ups and all(final[name].abs().max() > 0 for name in ups)
    raw = list(state.weights.values())
    assert not any(torch.equal(v, final[name]) for name in ups for v in raw if v.shape == final[name].shape)


# How a run ends.


def stop_at(step: int, act: Any) -> Any:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            act()

    return on_event


@pytest.mark.parametrize("way", ["signal", "file"])
def test_a_stop_saves_first_and_the_run_can_go_on(tmp_path, way):
    config = tiny_config(tmp_path, run__steps=6)
    folder = tmp_path / "run"

    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT) if way == "signal" else (folder / "stop").touch()

    stopped = train(config, folder, on_event=stop_at(2, act))
    assert stopped.steps == 2
    assert ("Ctrl-C" if way == "signal" else "stop file") in stopped.reason
    assert [path.name for path in stopped.adapters] == ["adapter-000002.safetensors"]
    assert events_of(folder, "finished")[-1]["reason"] == stopped.reason

    resumed = resume(folder)
    assert resumed.reason == "all 6 steps done"
    assert [path.name for path in resumed.adapters] == ["adapter-000002.safetensors", "adapter.safetensors"]
    assert losses_of(folder) == losses_of(train(config).run_folder)


def test_a_stop_while_preparing_ends_without_a_file(tmp_path):
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "preparing" and event["what"] == "scan":
            (tmp_path / "run" / "stop").touch()

    result = train(tiny_config(tmp_path), tmp_path / "run", on_event=on_event)
    assert "before the first step" in result.reason
    assert result.adapters == []
    assert resume(tmp_path / "run").steps == 3


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_saved(tmp_path):
    config = tiny_config(tmp_path, run__steps=20, optimizer__lr=1e25, save__every_steps=1)
    with pytest.raises(TrainingStopped, match="loss became") as caught:
        train(config, tmp_path / "run")
    assert "kept" in str(caught.value)
    kept = list((tmp_path / "run" / "adapters").iterdir()) if (tmp_path / "run" / "adapters").exists() else []
    for path in kept:
        assert all(torch.isfinite(tensor).all() for tensor in weights(path).values())
    assert events_of(tmp_path / "run", "failed")[0]["message"] == str(caught.value)
    assert "TrainingStopped" in (tmp_path / "run" / "log.txt").read_text()


def test_a_minutes_budget_counts_training_time_alone(tmp_path):
    import time

    def slow(event: dict[str, Any]) -> None:
        if event["event"] == "saved":
            time.sleep(0.5)

    config = tiny_config(tmp_path, run__steps=0, run__minutes=0.03, save__every_steps=1, optimizer__schedule="linear")
    result = train(config, on_event=slow)
    assert result.reason == "0.03 minutes of training done"
    steps = events_of(result.run_folder, "step")
    assert 1.8 <= result.seconds < 1.8 + 2 * max(step["seconds_per_step"] for step in steps)
    assert result.seconds == pytest.approx(sum(step["seconds_per_step"] for step in steps), rel=0.1)
    rates = [step["rates"]["unet"]["lr"] for step in steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-2
    assert rates[-1] < 0.8e-2 or len(rates) < 3


def test_epochs_end_a_run(tmp_path):
    config = tiny_config(tmp_path, pictures=5, run__steps=0, run__epochs=2, save__every_epochs=1)
    result = train(config)
    assert result.steps == 6
    assert [event["epoch"] for event in events_of(result.run_folder, "step")] == [0, 0, 0, 1, 1, 1]
    assert [path.name for path in result.adapters] == ["adapter-000003.safetensors", "adapter.safetensors"]


# What is refused or survived.


def test_files_of_another_run_are_never_replaced(tmp_path):
    output = tmp_path / "lora"
    config = tiny_config(tmp_path, run__output_folder=str(output), run__steps=1)
    train(config)
    before = (output / "adapter.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"adapter\.safetensors.*run\.name"):
        train(config)
    assert (output / "adapter.safetensors").read_bytes() == before
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_file_that_appeared_meanwhile_is_kept_too(tmp_path):
    output = tmp_path / "lora"
    config = tiny_config(tmp_path, run__output_folder=str(output), run__steps=1)

    def rival(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            (output / "adapter.safetensors").write_bytes(b"a rival's")

    result = train(config, on_event=rival)
    assert (output / "adapter.safetensors").read_bytes() == b"a rival's"
    assert [path.name for path in result.adapters] == ["adapter_2.safetensors"]


def test_a_run_folder_with_a_run_is_refused(tmp_path):
    train(tiny_config(tmp_path, run__steps=1), tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ConfigError, match="already holds a run"):
        train(tiny_config(tmp_path, run__steps=1), tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_a_full_disk_ends_the_run_in_words_and_loses_nothing(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, run__steps=4, save__every_steps=2)
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "run" / "state").is_dir() and list((tmp_path / "run" / "state").glob("*.pt")):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterLabError, match=r"disk is full|No space left"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "adapters").iterdir()] == ["adapter-000002.safetensors"]
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-00000002.pt"]
    assert resume(tmp_path / "run").steps == 4


def test_a_disk_that_is_full_for_the_events_too_is_said_in_words(tmp_path, monkeypatch):
    write = EventLog.write

    def full(self: EventLog, kind: str, **values: Any) -> Any:
        if kind in ("step", "failed"):
            raise OSError(28, "No space left on device")
        return write(self, kind, **values)

    monkeypatch.setattr(EventLog, "write", full)
    with pytest.raises(AdapterLabError, match="disk is full"):
        train(tiny_config(tmp_path), tmp_path / "run")
    assert "No space left" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision__mixed": "fp16"}, "fp16.*CPU"),
        ({"precision__device": "cuda:7"}, "cuda:7"),
        ({"optimizer__name": "adamw8bit"}, "bitsandbytes"),
        ({"optimizer__name": "prodigy-plus-schedule-free", "save__ema": 0.9, "optimizer__lr": 1.0}, "ema"),
        ({"run__steps": 0}, "no end"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_loaded(tmp_path, changes, said, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=said):
        train(tiny_config(tmp_path, **changes))


def test_an_unreadable_base_fails_in_words_with_the_traceback_in_the_log(tmp_path):
    config = tiny_config(tmp_path)
    (tmp_path / "no.safetensors").write_bytes(b"not a checkpoint")
    config.base.checkpoint = str(tmp_path / "no.safetensors")
    with pytest.raises(AdapterLabError, match=r"no\.safetensors"):
        train(config, tmp_path / "run")
    assert "no.safetensors" in events_of(tmp_path / "run", "failed")[0]["message"]
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


def test_the_default_configuration_needs_nothing_but_base_folder_and_budget(tmp_path):
    config = TrainConfig()
    config.base.checkpoint = str(tiny_base("sdxl"))
    config.dataset.folder = str(draw_pictures(tmp_path / "pictures", 2))
    config.run.runs_folder, config.run.steps, config.precision.device = str(tmp_path / "runs"), 1, "cpu"
    result = train(config)
    assert [path.name for path in result.adapters] == ["adapter.safetensors"]
    assert (tmp_path / "pictures" / ".adapter-lab-cache").is_dir()
