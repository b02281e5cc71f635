"""Prediction type and noise schedule from what a file says of itself, and the sentences about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import UNETS
from adapter_lab.training.bases import open_base
from tests.support.checkpoints import tiny_layout, write_diffusers_folder, write_random_checkpoint

PROBE = UNETS["sd2"].probe
assert PROBE is not None

EPSILON, V, FLOW = "epsilon", "v_prediction", "flow"
VPRED = {"v_pred": (0,)}
BOTH = {"v_pred": (0,), "ztsnr": (0,)}


@pytest.mark.parametrize(
    "family, keys, metadata, settings, prediction, zero, sentence",
    [
        ("sdxl", {}, {}, {}, EPSILON, False, "the usual of this family"),
        ("sdxl", VPRED, {}, {}, V, False, "`v_pred` key"),
        ("sdxl", BOTH, {}, {}, V, True, "Zero terminal SNR: yes, from the file's `ztsnr` key"),
        ("sd15", {}, {"modelspec.prediction_type": "v"}, {}, V, False, "modelspec.prediction_type"),
        ("sdxl", {}, {"modelspec.prediction_type": "epsilon"}, {}, EPSILON, False, "modelspec.prediction_type"),
        (
            "sdxl",
            {},
            {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
            {},
            V,
            True,
            "ss_zero_terminal",
        ),
        (
            "sdxl",
            VPRED,
            {},
            {"prediction": EPSILON},
            EPSILON,
            False,
            "base.prediction says (the file suggests v_prediction)",
        ),
        ("sdxl", {}, {}, {"prediction": V, "zero_terminal_snr": "yes"}, V, True, "as base.zero_terminal_snr says"),
        ("sdxl", BOTH, {}, {"zero_terminal_snr": "no"}, V, False, "Zero terminal SNR: no"),
        ("sdxl", {"ztsnr": (0,)}, {}, {}, EPSILON, False, "because the model predicts epsilon"),
        ("sdxl", {}, {"modelspec.prediction_type": "flow"}, {}, FLOW, False, "modelspec.prediction_type"),
        ("sdxl", {}, {"modelspec.prediction_type": "rf"}, {}, FLOW, False, "modelspec.prediction_type"),
        ("sdxl", {}, {}, {"prediction": FLOW}, FLOW, False, "as base.prediction says (the file suggests epsilon)"),
    ],
)
def test_single_file(tmp_path: Path, family, keys, metadata, settings, prediction, zero, sentence) -> None:
    layout = tiny_layout(family)
    path = tmp_path / "a.safetensors"
    write_random_checkpoint(path, {**layout, **keys}, metadata={**layout.metadata, **metadata})
    base = open_base(BaseConfig(checkpoint=str(path), **settings))
    assert (base.prediction, base.zero_terminal_snr) == (prediction, zero)
    assert any(sentence in finding for finding in base.findings), base.findings


@pytest.mark.parametrize("spread, prediction", [(0.02, EPSILON), (0.3, V)])
def test_sd2_is_told_apart_by_its_weights_and_says_that_this_is_assumed(
    tmp_path: Path, spread: float, prediction: str
) -> None:
    layout = tiny_layout("sd2")
    path = write_random_checkpoint(tmp_path / "a.safetensors", layout, torch.float32)
    state = load_file(path)
    state[PROBE.tensor] = spread * torch.randn(state[PROBE.tensor].shape, generator=torch.Generator().manual_seed(0))
    save_file(state, path, layout.metadata)
    base = open_base(BaseConfig(checkpoint=str(path)))
    assert base.prediction == prediction
    assert any("assumed from the weights; set base.prediction" in finding for finding in base.findings)


@pytest.mark.parametrize("step, prediction", [(110000, V), (875000, EPSILON)])
def test_sd2_ckpt_is_told_apart_by_its_step_count(tmp_path: Path, step: int, prediction: str) -> None:
    state = load_file(write_random_checkpoint(tmp_path / "a.safetensors", tiny_layout("sd2")))
    torch.save({"state_dict": state, "global_step": step}, tmp_path / "a.ckpt")
    assert open_base(BaseConfig(checkpoint=str(tmp_path / "a.ckpt"))).prediction == prediction


@pytest.mark.parametrize("prediction, resolution", [(EPSILON, 512), (V, 768)])
def test_resolution_of_sd2_follows_its_prediction(tmp_path: Path, prediction: str, resolution: int) -> None:
    layout = tiny_layout("sd2")
    stated = json.loads(layout.metadata["adapter_lab.architecture"])
    del stated["unet"]["sample_size"]
    metadata = {**layout.metadata, "adapter_lab.architecture": json.dumps(stated)}
    path = write_random_checkpoint(tmp_path / "a.safetensors", layout, metadata=metadata)
    assert open_base(BaseConfig(checkpoint=str(path), prediction=prediction)).resolution == resolution


@pytest.mark.parametrize(
    "scheduler, prediction, zero",
    [
        ({}, EPSILON, False),
        ({"prediction_type": "v_prediction"}, V, False),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, V, True),
    ],
)
def test_diffusers_folder_states_it_in_its_scheduler(
    tmp_path: Path, scheduler: dict, prediction: str, zero: bool
) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sd2", scheduler=scheduler)
    base = open_base(BaseConfig(checkpoint=str(folder)))
    assert (base.prediction, base.zero_terminal_snr) == (prediction, zero)
    assert any("scheduler_config.json" in finding for finding in base.findings)


@pytest.mark.parametrize("scheduler", [{"prediction_type": "sample"}, {"_class_name": "EDMEulerScheduler"}])
def test_folders_with_another_noise_scale_are_refused(tmp_path: Path, scheduler: dict) -> None:
    folder = write_diffusers_folder(tmp_path / "a", "sdxl", scheduler=scheduler)
    with pytest.raises(FileFormatError, match=r"which Adapter Lab does not train|whose noise scale"):
        open_base(BaseConfig(checkpoint=str(folder)))


@pytest.mark.parametrize("settings", [{"prediction": EPSILON}, {"zero_terminal_snr": "yes", "prediction": EPSILON}])
def test_epsilon_with_zero_terminal_snr_is_refused_when_asked_for(tmp_path: Path, settings: dict) -> None:
    layout = tiny_layout("sdxl")
    path = write_random_checkpoint(tmp_path / "a.safetensors", {**layout, **BOTH}, metadata=layout.metadata)
    with pytest.raises(ConfigError, match=r"set base\.prediction to v_prediction or base.zero_terminal_snr to no"):
        open_base(BaseConfig(checkpoint=str(path), **settings))


def test_name_that_suggests_v_prediction_is_mentioned_not_believed(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "noob-vpred-1.safetensors", tiny_layout("sdxl"))
    base = open_base(BaseConfig(checkpoint=str(path)))
    assert base.prediction == EPSILON
    assert any("set base.prediction to v_prediction" in finding for finding in base.findings)


@pytest.mark.parametrize("zero", [False, True])
def test_noise_schedule_equals_diffusers(tmp_path: Path, zero: bool) -> None:
    layout = tiny_layout("sdxl")
    keys = BOTH if zero else VPRED
    path = write_random_checkpoint(tmp_path / "a.safetensors", {**layout, **keys}, metadata=layout.metadata)
    schedule = open_base(BaseConfig(checkpoint=str(path))).objective()
    reference = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero
    ).alphas_cumprod
    torch.testing.assert_close(schedule.alphas_cumprod, reference, rtol=1e-4, atol=1e-7)
    assert (schedule.alphas_cumprod[-1] == 0) == zero
    assert schedule.prediction == V


@pytest.mark.parametrize(
    "family, prediction, version, architecture",
    [
        ("sd15", EPSILON, "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", EPSILON, "sd_v2_512", "stable-diffusion-v2-512/lora"),
        ("sd2", V, "sd_v2_768_v", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", V, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_metadata_of_adapter_files(
    tmp_path: Path, family: str, prediction: str, version: str, architecture: str
) -> None:
    path = write_random_checkpoint(tmp_path / "my model.safetensors", tiny_layout(family))
    found = open_base(BaseConfig(checkpoint=str(path), prediction=prediction)).metadata()
    assert found["ss_base_model_version"] == version
    assert found["modelspec.architecture"] == architecture
    assert found["ss_v2"] == str(family == "sd2")
    assert found["ss_sd_model_name"] == "my model.safetensors"
    assert found["modelspec.prediction_type"] == ("v" if prediction == V else "epsilon")
    assert len(found["ss_sd_model_hash"]) == 8
