"""Import of the kohya_ss GUI's JSON files: their names, their zeros, and what the GUI makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import Imported, import_kohya
from adapter_lab.kohya.gui import TYPES
from adapter_lab.validation import problems

# What the GUI writes into every file of its LoRA page, whether it is used or not.
ALWAYS: dict[str, Any] = {
    "LoRA_type": "Standard",
    "pretrained_model_name_or_path": "D:/models/base.safetensors",
    "train_data_dir": "D:/pictures",
    "output_dir": "D:/loras",
    "output_name": "hero",
    "model_list": "custom",
    "learning_rate": 0.0001,
    "unet_lr": 0.0001,
    "text_encoder_lr": 0.00005,
    "t5xxl_lr": 0,
    "network_dim": 16,
    "network_alpha": 8,
    "conv_dim": 4,
    "conv_alpha": 2,
    "factor": 8,
    "unit": 1,
    "LyCORIS_preset": "full",
    "use_tucker": False,
    "use_cp": False,
    "use_scalar": False,
    "dora_wd": False,
    "bypass_mode": False,
    "rank_dropout": 0,
    "module_dropout": 0,
    "rank_dropout_scale": False,
    "constrain": 0,
    "rescaled": False,
    "train_norm": False,
    "decompose_both": False,
    "train_on_input": True,
    "down_lr_weight": "",
    "block_dims": "",
    "network_weights": "",
    "epoch": 10,
    "max_train_epochs": 0,
    "max_train_steps": 1200,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "lr_scheduler": "cosine",
    "lr_scheduler_num_cycles": 1,
    "lr_scheduler_power": 1,
    "lr_scheduler_args": "",
    "lr_warmup": 10,
    "lr_warmup_steps": 0,
    "optimizer": "AdamW8bit",
    "optimizer_args": "",
    "max_grad_norm": 1,
    "max_resolution": "768,768",
    "enable_bucket": True,
    "bucket_no_upscale": True,
    "bucket_reso_steps": 64,
    "min_bucket_reso": 256,
    "max_bucket_reso": 2048,
    "caption_extension": ".txt",
    "shuffle_caption": True,
    "keep_tokens": "1",
    "max_token_length": "75",
    "cache_latents": True,
    "cache_latents_to_disk": True,
    "mixed_precision": "bf16",
    "save_precision": "fp16",
    "save_every_n_epochs": 1,
    "save_every_n_steps": 0,
    "save_last_n_steps": 0,
    "save_model_as": "safetensors",
    "seed": 0,
    "clip_skip": 0,
    "min_snr_gamma": 5,
    "noise_offset_type": "Original",
    "noise_offset": 0.05,
    "multires_noise_iterations": 6,
    "multires_noise_discount": 0.3,
    "min_timestep": 0,
    "max_timestep": 1000,
    "loss_type": "l2",
    "huber_c": 0.1,
    "huber_scale": 1,
    "huber_schedule": "snr",
    "prior_loss_weight": 1,
    "sdxl": True,
    "sdxl_cache_text_encoder_outputs": False,
    "sdxl_no_half_vae": True,
    "flux1_checkbox": False,
    "guidance_scale": 3.5,
    "t5xxl_max_token_length": 512,
    "discrete_flow_shift": 3,
    "hunyuan_attn_mode": "torch",
    "sample_sampler": "euler_a",
    "sample_every_n_steps": 0,
    "sample_prompts": "",
    "num_cpu_threads_per_process": 2,
    "num_processes": 1,
    "dynamo_backend": "no",
    "dynamo_mode": "default",
    "xformers": "xformers",
    "max_data_loader_n_workers": 0,
    "vae_batch_size": 0,
    "huggingface_repo_type": "",
    "additional_parameters": "",
    "save_as_bool": False,
    "stop_text_encoder_training": 0,
}


def imported(tmp_path: Path, **changes: Any) -> Imported:
    path = tmp_path / "gui.json"
    path.write_text(json.dumps({**ALWAYS, **changes}), encoding="utf-8")
    return import_kohya(path)


def reasons(result: Imported) -> dict[str, str]:
    return {left.key: left.reason for left in result.left_out}


def test_a_file_of_the_gui_is_carried_over_and_nothing_is_left(tmp_path: Path) -> None:
    result = imported(tmp_path)
    wanted = config_file.loads(
        """
        [base]
        checkpoint = "D:/models/base.safetensors"
        [dataset]
        folder = "D:/pictures"
        token_chunks = 1
        resolution = 768
        bucket_min = 256
        bucket_max = 2048
        caption_extensions = [".txt"]
        shuffle_tags = true
        keep_tokens = 1
        [network]
        algo = "lora"
        dim = 16
        alpha = 8.0
        conv_dim = 0
        conv_alpha = "same"
        train_te = true
        [optimizer]
        name = "adamw8bit"
        betas = [0.9, 0.999]
        lr = 1e-4
        te1_lr = 5e-5
        te2_lr = 5e-5
        schedule = "cosine"
        warmup_steps = 120
        [loss]
        min_snr_gamma = 5.0
        noise_offset = 0.05
        [precision]
        mixed = "bf16"
        [run]
        name = "hero"
        output_folder = "D:/loras"
        batch_size = 2
        steps = 1200
        [save]
        every_epochs = 1
        """
    )
    assert config_file.dumps(result.config, only_changed=True) == config_file.dumps(wanted, only_changed=True)
    assert problems(result.config) == []
    assert reasons(result) == {}


# LoRA_type, settings of the file -> our network.
NETWORKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Standard", {}, {"algo": "lora", "conv_dim": 0}),
    ("Kohya LoCon", {}, {"algo": "lora", "conv_dim": 4, "conv_alpha": 2.0}),
    ("Kohya LoHa", {"use_tucker": True}, {"algo": "loha", "conv_dim": 4, "tucker": True}),
    ("Kohya LoKr", {}, {"algo": "lokr", "factor": 8}),
    ("Kohya DyLoRA", {}, {"algo": "lora", "dim": 16, "conv_dim": 4}),
    ("LoRA-FA", {}, {"algo": "lora", "dim": 16, "conv_dim": 0}),
    ("LoCon", {"dora_wd": True}, {"algo": "lora", "dora": True}),
    ("LyCORIS/LoCon", {"conv_dim": 0, "use_scalar": True}, {"algo": "lora", "conv_dim": 16, "use_scalar": True}),
    ("LyCORIS/LoHa", {"rank_dropout": 0.1}, {"algo": "loha", "rank_dropout": 0.1, "factor": -1}),
    ("LyCORIS/LoKr", {"decompose_both": True, "use_cp": True}, {"decompose_both": True, "factor": 8, "tucker": True}),
    ("LyCORIS/LoKr", {"LyCORIS_preset": "attn-mlp"}, {"algo": "lokr", "conv_dim": 0, "train_conv": False}),
    ("LyCORIS/GLoRA", {"train_norm": True}, {"algo": "glora", "train_norm": True}),
    ("LyCORIS/Diag-OFT", {"constrain": 0.001, "rescaled": True}, {"constraint": 0.001, "rescaled": True}),
    ("LyCORIS/BOFT", {"constrain": 0.001}, {"algo": "boft", "constraint": 0.0}),
    ("LyCORIS/iA3", {}, {"algo": "ia3", "train_on_input": True}),
    ("LyCORIS/Native Fine-Tuning", {"module_dropout": 0.1}, {"algo": "full", "module_dropout": 0.1}),
]


# What is said of a type that becomes another.
TOLD = {"Kohya DyLoRA": {"LoRA_type", "unit"}, "LoRA-FA": {"LoRA_type"}}


@pytest.mark.parametrize(("kind", "changes", "wanted"), NETWORKS, ids=lambda value: str(value)[:50])
def test_each_type_of_the_gui_becomes_ours_with_what_it_uses(
    tmp_path: Path, kind: str, changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    result = imported(tmp_path, LoRA_type=kind, **changes)
    network = result.config.network
    assert {name: getattr(network, name) for name in wanted} == wanted
    assert problems(result.config, complete=False) == []
    missed = {"LyCORIS_preset"} if kind.startswith("Ly") or kind == "LoCon" else set()
    missed = set() if changes.get("LyCORIS_preset") == "attn-mlp" else missed
    assert set(reasons(result)) == missed | TOLD.get(kind, set())


def test_every_type_that_can_be_imported_is_tested() -> None:
    assert {kind for kind, *_ in NETWORKS} == set(TYPES)


# Settings of the file -> section, what holds there.
CARRIED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"max_train_steps": 0}, "run", {"epochs": 10, "steps": 0}),
    ({"max_train_steps": "", "max_train_epochs": "3"}, "run", {"epochs": 3, "steps": 0}),
    ({"seed": 7}, "run", {"seed": 7}),
    ({"sdxl": False, "clip_skip": 1}, "base", {"clip_skip": 0}),
    ({"sdxl": False, "clip_skip": 3}, "base", {"clip_skip": 3}),
    ({"sdxl": True, "clip_skip": 3}, "base", {"clip_skip": 0}),
    ({"v2": True, "sdxl": False, "clip_skip": 2}, "base", {"clip_skip": 3}),
    ({"lr_warmup": 10, "lr_warmup_steps": 30}, "optimizer", {"warmup_steps": 30}),
    ({"text_encoder_lr": 0}, "network", {"train_te": False, "train_unet": True}),
    ({"unet_lr": 0}, "network", {"train_te": True, "train_unet": False}),
    ({"unet_lr": 0, "text_encoder_lr": 0}, "network", {"train_te": True, "train_unet": True}),
    ({"unet_lr": 0, "text_encoder_lr": 0}, "optimizer", {"lr": 1e-4, "te1_lr": "same"}),
    ({"sdxl_cache_text_encoder_outputs": True}, "network", {"train_te": False}),
    ({"lora_network_weights": "w.safetensors"}, "network", {"start_from": "w.safetensors"}),
    ({"scale_weight_norms": 1.0}, "network", {"max_norm": 1.0}),
    ({"optimizer": "Prodigy", "optimizer_args": '"d_coef=2" "betas=0.9,0.95"'}, "optimizer", {"d_coef": 2.0}),
    ({"noise_offset_type": "Multires"}, "loss", {"noise_offset": 0.0, "multires_noise_iterations": 6}),
    ({"sample_prompts": "a cat --w 832\na dog"}, "preview", {"prompts": ["a cat", "a dog"], "width": 832}),
    ({"additional_parameters": '--noise_offset 0.1 --flip_aug "--seed" 3'}, "loss", {"noise_offset": 0.1}),
    ({"additional_parameters": "--flip_aug --seed=3"}, "dataset", {"flip": True}),
    ({"additional_parameters": "--flip_aug --seed=3"}, "run", {"seed": 3}),
    ({"additional_parameters": "--network_args algo=loha", "LoRA_type": "LyCORIS/LoKr"}, "network", {"algo": "loha"}),
]


@pytest.mark.parametrize(("changes", "section", "wanted"), CARRIED, ids=lambda value: str(value)[:60])
def test_settings_mean_what_the_gui_makes_of_them(
    tmp_path: Path, changes: dict[str, Any], section: str, wanted: dict[str, Any]
) -> None:
    found = getattr(imported(tmp_path, **changes).config, section)
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"LoRA_type": "LyCORIS/LoKr", "bypass_mode": True}, {"bypass_mode", "LyCORIS_preset"}),
        ({"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "mine.toml"}, {"LyCORIS_preset"}),
        ({"LoRA_type": "LyCORIS/LoKr", "loraplus_lr_ratio": 4}, {"loraplus_lr_ratio", "LyCORIS_preset"}),
        ({"loraplus_text_encoder_lr_ratio": 4}, {"loraplus_text_encoder_lr_ratio"}),
        ({"block_dims": "2,2,2"}, {"block_dims"}),
        ({"optimizer": "DAdaptAdam"}, {"optimizer"}),
        ({"clip_skip": 1}, {"clip_skip"}),
        ({"max_token_length": "225"}, {"max_token_length"}),
        ({"max_resolution": "768,1024"}, {"max_resolution"}),
        ({"caption_extension": ""}, {"caption_extension"}),
        ({"sample_prompts": "a cat", "sample_every_n_steps": 50}, {"sample_sampler", "sample_every_n_steps"}),
        ({"huggingface_repo_id": "me/mine"}, {"huggingface_repo_id"}),
        ({"multi_gpu": True}, {"multi_gpu"}),
        ({"full_bf16": True, "weighted_captions": True}, {"full_bf16", "weighted_captions"}),
        ({"a_setting_of_tomorrow": 3}, {"a_setting_of_tomorrow"}),
        ({"additional_parameters": "--tomorrow 3"}, {"tomorrow"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:60],
)
def test_what_has_no_counterpart_is_listed_under_the_files_own_name(
    tmp_path: Path, changes: dict[str, Any], named: set[str]
) -> None:
    found = reasons(imported(tmp_path, **changes))
    assert set(found) == named and all(found.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LoRA_type": "Flux1"}, "LoRA_type is 'Flux1', which is not trained here"),
        ({"LoRA_type": "LyCORIS/DyLoRA"}, "LoRA_type is 'LyCORIS/DyLoRA'"),
        ({"flux1_checkbox": True}, "trains Flux"),
        ({"unet_lr": "fast"}, "unet_lr is 'fast'"),
        ({"epoch": "many"}, "epoch is 'many'"),
        ({"LoRA_type": "LyCORIS/LoKr", "LyCORIS_preset": "full", "factor": "x"}, "factor is 'x'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_imported_is_refused_in_the_files_own_words(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        imported(tmp_path, **changes)
    assert message in str(raised.value)
