"""When a run ends and when it saves; run folders, file names, stop requests, metadata."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adapter_lab.config import NetworkConfig, RuleConfig, RunConfig, SaveConfig, SourceConfig, TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs.budget import RunBudget, SaveSchedule, Stopwatch
from adapter_lab.runs.run_folder import AdapterFiles, RunFolder, new_run_folder
from adapter_lab.training.device.slots import Slot
from adapter_lab.training.interrupt import StopRequests
from adapter_lab.training.output import metadata


@pytest.mark.parametrize(
    ("limits", "step", "seconds", "ended"),
    [
        ({"steps": 10}, 9, 1e9, ""),
        ({"steps": 10}, 10, 0, "all 10 steps done"),
        ({"epochs": 2}, 13, 0, ""),
        ({"epochs": 2}, 14, 0, "all 2 epochs done"),
        ({"minutes": 1.5}, 10**9, 89.9, ""),
        ({"minutes": 1.5}, 0, 90, "1.5 minutes of training done"),
        ({"steps": 100, "minutes": 1}, 5, 60, "1 minutes of training done"),
        ({"steps": 100, "epochs": 1}, 7, 0, "all 1 epochs done"),
        ({}, 10**9, 1e9, ""),
    ],
)
def test_the_first_limit_reached_ends_a_run(limits, step, seconds, ended):
    assert RunBudget.of(RunConfig(**limits), steps_per_epoch=7).ended(step, seconds) == ended


@pytest.mark.parametrize(
    ("limits", "step", "seconds", "share"),
    [
        ({"steps": 10}, 5, 1e9, 0.5),
        ({"epochs": 2}, 7, 0, 0.5),
        ({"minutes": 1}, 3, 15, 0.25),
        ({"steps": 100, "minutes": 1}, 10, 30, 0.5),
        ({"minutes": 1}, 3, 90, 1.0),
        ({}, 3, 90, 0.0),
    ],
)
def test_progress_is_the_share_of_the_budget_nearest_its_end(limits, step, seconds, share):
    assert RunBudget.of(RunConfig(**limits), steps_per_epoch=7).progress(step, seconds) == pytest.approx(share)


def test_saving_points_by_steps_epochs_and_minutes():
    def due(config: SaveConfig, seconds_per_step: float = 1.0) -> list[int]:
        points = SaveSchedule(config, steps_per_epoch=4)
        return [s for s in range(1, 13) if points.adapter_due(s, (s - 1) * seconds_per_step, s * seconds_per_step)]

    assert due(SaveConfig(every_steps=5)) == [5, 10]
    assert due(SaveConfig(every_epochs=2)) == [8]
    assert due(SaveConfig(every_minutes=0.1), seconds_per_step=2.5) == [3, 5, 8, 10, 12]
    assert due(SaveConfig(every_steps=6, every_epochs=1)) == [4, 6, 8, 12]
    assert due(SaveConfig()) == []
    assert [s for s in range(1, 9) if SaveSchedule(SaveConfig(state_every_steps=3), 4).state_due(s)] == [3, 6]


def test_the_stopwatch_counts_only_while_running():
    now = [0.0]
    watch = Stopwatch(seconds=5.0, clock=lambda: now[0])
    with watch.running():
        now[0] += 2
    now[0] += 100
    with watch.running():
        now[0] += 3
    assert watch.seconds == 10


def test_a_new_run_never_gets_the_folder_of_another(tmp_path):
    config = RunConfig(name="test", runs_folder=str(tmp_path / "runs"))
    folders = {new_run_folder(config).path for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.name.startswith("test-") for folder in folders)
    given = new_run_folder(config, tmp_path / "given")
    given.config.write_text("")
    new_run_folder(config, tmp_path / "given")
    given.events.write_text("")
    with pytest.raises(ConfigError, match="already holds a run"):
        new_run_folder(config, tmp_path / "given")


def test_files_of_another_run_are_found_whatever_their_case(tmp_path):
    files = AdapterFiles(RunConfig(name="Hana", output_folder=str(tmp_path)), tmp_path)
    (tmp_path / "Hana2.safetensors").touch()
    (tmp_path / "other.safetensors").touch()
    files.check_unused()
    (tmp_path / "hana-000400.safetensors").touch()
    with pytest.raises(ConfigError, match=r"hana-000400.*run\.name"):
        files.check_unused()


def test_the_last_k_numbered_files_are_kept_beside_the_finished_one(tmp_path):
    files = AdapterFiles(RunConfig(name="a", output_folder=str(tmp_path)), tmp_path)
    for step in (1, 2, 3, None):
        path = files.path(step)
        path.touch()
        files.add(path, keep_last=2)
    assert sorted(os.listdir(tmp_path)) == ["a-000002.safetensors", "a-000003.safetensors", "a.safetensors"]
    assert [path.name for path in files.paths()] == ["a-000002.safetensors", "a-000003.safetensors", "a.safetensors"]


def test_two_processes_cannot_run_in_one_folder(tmp_path):
    folder = RunFolder(tmp_path)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        import psutil

        started = psutil.Process(sleeper.pid).create_time()
        folder.process.write_text(json.dumps({"pid": sleeper.pid, "started": started}))
        with pytest.raises(AdapterLabError, match=str(sleeper.pid)), folder.claimed():
            pass
    finally:
        sleeper.kill()
        sleeper.wait()
    with folder.claimed():
        assert json.loads(folder.process.read_text())["pid"] == os.getpid()
    assert not folder.process.exists()


def test_a_claim_of_a_process_that_is_gone_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    for left in ('{"pid": 1, "started": 3.5}', "{", '{"pid": 99999999, "started": 1}'):
        folder.process.write_text(left)
        with folder.claimed():
            pass


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_asks_for_a_stop_and_a_second_one_is_not_held_back(tmp_path, number, said):
    before = signal.getsignal(number)
    with StopRequests(tmp_path) as stop:
        assert stop.reason() == ""
        os.kill(os.getpid(), number)
        assert said in stop.reason()
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_a_stop_file_asks_for_a_stop_and_an_old_one_does_not(tmp_path):
    (tmp_path / "stop").touch()
    with StopRequests(tmp_path) as stop:
        assert stop.reason() == ""
        (tmp_path / "stop").touch()
        assert "stop file" in stop.reason()


def test_signals_are_left_alone_outside_the_main_thread(tmp_path):
    problems = []

    def work() -> None:
        try:
            with StopRequests(tmp_path) as stop:
                assert stop.reason() == ""
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []


def test_a_slot_frees_its_model_unless_it_is_kept():
    loads: list[object] = []

    def load() -> object:
        loads.append(object())
        return loads[-1]

    slot = Slot(load)
    assert slot.use(id) != slot.use(id)
    assert len(loads) == 2
    kept = slot.get()
    assert slot.use(lambda model: model) is kept
    assert len(loads) == 3


@pytest.mark.parametrize(
    ("network", "module", "arguments"),
    [
        (NetworkConfig(dim=32, alpha=16), "networks.lora", {}),
        (NetworkConfig(conv_dim=8, dropout=0.1), "networks.lora", {"conv_dim": "8", "dropout": "0.1"}),
        (
            NetworkConfig(tucker=True, conv_dim=8),
            "lycoris.kohya",
            {"algo": "lora", "conv_dim": "8", "use_tucker": "True"},
        ),
        (NetworkConfig(algo="lokr", factor=4), "lycoris.kohya", {"algo": "lokr", "factor": "4"}),
        (
            NetworkConfig(algo="loha", dora=True),
            "lycoris.kohya",
            {"algo": "loha", "dora_wd": "True", "wd_on_output": "True"},
        ),
        (NetworkConfig(rules=[RuleConfig(match="lora_te*", algo="none")]), "lycoris.kohya", {"algo": "lora"}),
    ],
)
def test_network_metadata_in_kohyas_words(network, module, arguments):
    entries = metadata.network_entries(network)
    assert entries["ss_network_module"] == module
    assert json.loads(entries["ss_network_args"]) == arguments
    assert (entries["ss_network_dim"], entries["ss_network_alpha"]) == (str(network.dim), str(network.alpha))
    assert json.loads(entries["adapter_lab.network"])["algo"] == network.algo


def test_metadata_gives_the_rates_that_are_used():
    config = TrainConfig()
    entries = metadata.training_entries(config)
    assert (entries["ss_learning_rate"], entries["ss_unet_lr"], entries["ss_text_encoder_lr"]) == ("1.0", "1.0", "None")
    config.network.train_te, config.optimizer.name, config.optimizer.te1_lr = True, "adamw", 5e-5
    entries = metadata.training_entries(config)
    assert (entries["ss_unet_lr"], entries["ss_text_encoder_lr"]) == ("0.0001", "5e-05")


def test_metadata_names_no_folder_of_this_machine():
    config = TrainConfig()
    config.base.checkpoint = "/home/mio/models/base.safetensors"
    config.dataset.folder = "C:\\Users\\mio\\hana"
    config.dataset.sources = [SourceConfig(folder="/home/mio/more")]
    config.network.start_from = "/home/mio/old.safetensors"
    config.network.frozen_adapters = ["/home/mio/style.safetensors:0.5"]
    config.run.output_folder = config.run.runs_folder = "/home/mio/lora"
    public = metadata.without_places(config)
    assert public.base.checkpoint == "base.safetensors"
    assert public.dataset.folder == "hana"
    assert public.dataset.sources[0].folder == "more"
    assert public.network.frozen_adapters == ["style.safetensors:0.5"]
    assert config.base.checkpoint == "/home/mio/models/base.safetensors"
    texts = [
        *metadata.network_entries(config.network).values(),
        *metadata.training_entries(config).values(),
        str(public),
    ]
    assert not any("mio" in text for text in texts)


def test_source_date_epoch_fixes_the_clock(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert metadata.run_clock() == 1700000000
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert metadata.run_clock() > 1700000000


def test_a_run_folder_lists_its_places():
    folder = RunFolder(Path("runs/x"))
    assert not folder.has_run()
    assert (folder.config.name, folder.events.name, folder.log.name) == ("config.toml", "events.jsonl", "log.txt")
