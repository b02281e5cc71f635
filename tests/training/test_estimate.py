"""Predictions against what is really written and allocated: file sizes, parameters, optimiser state, peak memory."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from adapter_lab.adapters.file import AdapterFile, file_bytes
from adapter_lab.adapters.keys import targets
from adapter_lab.cli import main
from adapter_lab.config import OWN_OPTIMIZERS, OptimizerConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.presets import STUDY, preset
from adapter_lab.training.bases import open_base
from adapter_lab.training.estimate.dry_run import DryRun
from adapter_lab.training.estimate.live_memory import LiveMemory
from adapter_lab.training.estimate.memory import CUBLAS_WORKSPACE, CUDA_CONTEXT, estimate
from adapter_lab.training.loop import train
from adapter_lab.training.optim.optimizers import RateGroup, build_optimizer
from adapter_lab.training.optim.state_size import state_bytes
from tests.support.settings import set_options
from tests.support.training import draw_pictures, tiny_config
from tests.training.test_live_memory import allocated_peak

CONV = "--train-te --conv-dim 32 --conv-alpha 16 --tucker"
# The study's files: settings, bytes without metadata, trained numbers, modules.
STUDY_FILES = [
    ("--algo lora --dim 32 --alpha 16", 170_537_276, 85_114_880, 722),
    ("--algo lora --dim 32 --alpha 16 --train-te", 228_447_308, 114_016_256, 986),
    (f"--algo lora --dim 32 --alpha 16 {CONV}", 237_185_136, 118_370_304, 1052),
    (
        "--algo loha --dim 16 --alpha 8 --train-te --conv-dim 16 --conv-alpha 8 --tucker",
        237_116_824,
        118_195_200,
        1052,
    ),
    (f"--algo lokr --dim 32 --alpha 16 {CONV} --factor 0", 237_313_056, 118_371_356, 1052),
    (f"--algo lokr --dim 32 --alpha 16 {CONV} --factor 2", 119_294_272, 59_364_464, 1052),
    (f"--algo lokr --dim 32 --alpha 16 {CONV} --factor 4", 60_306_936, 29_872_064, 1052),
    ("--algo glora --dim 16 --alpha 8 --train-te --conv-dim 16 --conv-alpha 8", 239_840_424, 119_561_216, 1052),
]


@pytest.mark.parametrize(("options", "size", "parameters", "modules"), STUDY_FILES, ids=lambda value: str(value)[:40])
def test_file_sizes_are_the_studys_without_a_checkpoint(
    options: str, size: int, parameters: int, modules: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["estimate", "--base", "sdxl", *options.split(), "--dtype", "fp16", "--no-memory", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file_bytes"] - found["metadata_bytes"] == size
    assert (found["trainable_parameters"], found["modules"]) == (parameters, modules)


@pytest.mark.parametrize("changes", [[], ["network.algo=lokr", "network.train_te=true", "save.dtype=fp32"]])
def test_the_file_that_training_writes_has_the_size_that_was_predicted(tmp_path: Path, changes: list[str]) -> None:
    config = set_options(tiny_config(tmp_path, "sdxl", run__steps=1), changes)
    predicted = estimate(config, memory=False)
    written = train(config).adapters[-1]
    file = AdapterFile.open(written)
    layout = {f"{n}.{s}": (i.shape, i.dtype) for n, module in file.modules.items() for s, i in module.items()}
    assert predicted.file_bytes == written.stat().st_size
    assert predicted.metadata_bytes == written.stat().st_size - file_bytes(layout, None)


def test_a_prediction_needs_a_base() -> None:
    with pytest.raises(ConfigError, match="estimate needs a base"):
        estimate(TrainConfig())


def test_settings_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ConfigError, match="BOFT with dim 8 does not fit"):
        estimate(set_options(TrainConfig(), ["base.family=sdxl", "network.algo=boft", "network.dim=8"]))


SHAPES = [(64, 48), (5000,), (16, 8, 3, 3), (40, 7, 1, 1), (9, 9), (), (10,), (128, 4)]


@pytest.mark.parametrize("slice_p", [1, 10])
@pytest.mark.parametrize("name", sorted(set(OWN_OPTIMIZERS) - {"adamw8bit"}))
def test_optimiser_state_has_the_predicted_size(name: str, slice_p: int) -> None:
    config = OptimizerConfig(name=name, slice_p=slice_p if name == "prodigy" else 10)
    for shape in SHAPES:
        parameter = torch.nn.Parameter(torch.ones(shape))
        optimizer = build_optimizer([RateGroup("unet", 1e-3, [parameter])], config)
        for _ in range(2):
            parameter.grad = torch.randn(shape)
            optimizer.step()
        (state,) = optimizer.state_dict()["members"][0]["state"].values()
        kept = [value for value in state.values() if isinstance(value, torch.Tensor)]
        # Some keep a scalar or two beside their tensors.
        assert 0 <= sum(value.nbytes for value in kept) - state_bytes(shape, config) <= 8, shape


def test_8_bit_state_is_a_byte_per_value_and_moment_with_a_scale_per_block() -> None:
    config = OptimizerConfig(name="adamw8bit")
    assert state_bytes((64, 1024), config) == 2 * 65536 + 2 * 4 * 256
    assert state_bytes((63, 65), config) == 8 * 63 * 65  # below 4096 values it stays in fp32


def tiny(tmp_path: Path, *changes: str) -> TrainConfig:
    config = tiny_config(tmp_path, "sdxl", dataset__token_chunks=1, dataset__resolution=256, run__batch_size=4)
    return set_options(config, changes)


REAL_STEPS = [
    ["precision.gradient_checkpointing=true", "network.train_te=true"],
    ["network.algo=loha", "network.conv_dim=4", "precision.base_weights=int8"],
    ["network.algo=lokr", "network.factor=4", "optimizer.gradient_accumulation=3"],
    ["network.algo=diag-oft", "network.conv_dim=8", "network.train_norm=true"],
    ["network.dora=true", "precision.gradient_checkpointing=true"],
]


@pytest.mark.parametrize("changes", REAL_STEPS, ids=lambda changes: " ".join(changes))
def test_a_real_step_keeps_exactly_the_predicted_storage_alive_and_allocates_within_3_percent(
    tmp_path: Path, changes: list[str]
) -> None:
    config = tiny(tmp_path, *changes)
    base = open_base(config.base)
    run = DryRun(config, base, targets(base.shapes), torch.float32, 256, on_cuda=False)
    predicted = run.phases()[-1]
    encoders = base.load_text_encoders(torch.float32) if config.network.train_te else None
    unet = base.load_unet(torch.float32)
    step = run.prepare_steps(unet, encoders, {}, LiveMemory())

    memory = LiveMemory()
    memory.adopt("kept", step.resident)
    with memory:
        step.run()
    state = predicted.breakdown["optimiser"]
    assert predicted.total - state == memory.peak_total
    for parameter in step.parameters:
        parameter.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step.run()
    allocated = memory.live["kept"] + allocated_peak(recorded)
    assert abs((predicted.total - state) / allocated - 1) < 0.03


def test_the_breakdown_adds_up_to_the_peak_and_names_what_cuda_takes(tmp_path: Path) -> None:
    on_cpu = estimate(tiny(tmp_path))
    on_gpu = estimate(tiny(tmp_path, "precision.device=cuda"))
    for predicted in (on_cpu, on_gpu):
        assert sum(predicted.breakdown.values()) == predicted.peak_bytes
        assert predicted.tensor_bytes == max(predicted.phases.values())
        assert set(predicted.phases) == {"encoding images", "encoding captions", "training"}
    assert on_cpu.peak_bytes == on_cpu.tensor_bytes
    assert on_gpu.peak_bytes == (on_gpu.tensor_bytes or 0) + CUDA_CONTEXT + CUBLAS_WORKSPACE
    assert "CUDA context" in on_gpu.text() and "CUDA context" not in on_cpu.text()


@cache
def breakdown(folder: Path, changes: str) -> dict[str, int]:
    config = tiny(folder, *changes.split())
    base = open_base(config.base)
    on_cuda = config.precision.device == "cuda"
    dtype = torch.bfloat16 if on_cuda else torch.float32
    return DryRun(config, base, targets(base.shapes), dtype, 256, on_cuda).phases()[-1].breakdown


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.mark.parametrize(
    ("changes", "larger", "smaller"),
    [
        ("run.batch_size=8 network.dim=16 optimizer.name=lion", ["activations", "adapter"], []),
        ("precision.gradient_checkpointing=true save.ema=0.9", ["moving average"], ["activations"]),
        ("precision.base_weights=fp8 network.train_te=true", ["text encoders"], ["UNet"]),
        ("precision.device=cuda dataset.cache_latents=off", ["VAE"], ["UNet"]),
        ("dataset.shuffle_tags=true optimizer.name=adafactor", ["text encoders"], ["optimiser"]),
    ],
)
def test_memory_follows_the_settings(pictures: Path, changes: str, larger: list[str], smaller: list[str]) -> None:
    usual, changed = breakdown(pictures, ""), breakdown(pictures, changes)
    for label in larger:
        assert changed[label] > usual.get(label, 0), label
    for label in smaller:
        assert changed[label] < usual[label], label


def test_a_text_for_people_names_sizes_and_assumptions(tmp_path: Path) -> None:
    text = estimate(tiny(tmp_path)).text()
    for words in ("Adapter file:", "Peak memory:", "activations", "encoding images", "Assumed: computes in fp32"):
        assert words in text


@pytest.mark.slow
def test_the_study_fits_8_gb_with_every_memory_saving_option() -> None:
    predicted = estimate(preset(STUDY))
    assert predicted.file_bytes - predicted.metadata_bytes == 228_447_308
    assert (predicted.peak_bytes or 0) < 7.5e9


def test_what_a_budget_of_epochs_comes_to_is_known_with_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = ["--epochs", "10", "--growth-rate", "1.01", "--d0", "1e-6", "--batch-size", "2", "--resolution", "64"]
    pictures = ["--folder", str(draw_pictures(tmp_path / "pictures", 4))]
    assert main(["estimate", "--base", "sd15", "--no-memory", *held, *pictures]) == 0
    assert "Note: optimizer.growth_rate 1.01 lets Prodigy's estimate d come to about 1e-06 at most in 20 steps" in (
        capsys.readouterr().out
    )
    assert main(["estimate", "--base", "sd15", "--no-memory", "--steps", "20", *held[2:]]) == 0
    assert "in 20 steps" in capsys.readouterr().err
