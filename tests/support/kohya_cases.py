"""Settings files of other people's trainings: what must become of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adapter_lab.config import SourceConfig

_BASE = 'pretrained_model_name_or_path = "sd15.safetensors"\n'
_FOLDER = 'train_data_dir = "pics"\ncaption_extension = ".txt"\n'
_LORA = f'{_BASE}{_FOLDER}network_module = "networks.lora"\nnetwork_dim = 16\nlearning_rate = 1e-4\n'
_GUI = '"train_data_dir": "pics", "caption_extension": ".txt", "learning_rate": 1e-4, "unet_lr": 1e-4'


@dataclass(frozen=True)
class Case:
    """A file's text, what its import gives, and what is said about it: words of the key and of the sentence."""

    text: str
    wanted: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    family: str = "sd15"
    v_prediction: bool = False


def _optimizer(theirs: str, lost: str = "", **wanted: Any) -> Case:
    text = f'{_LORA}optimizer_type = "{theirs}"\noptimizer_args = ["weight_decay=0.01"]\n'
    wanted = {f"optimizer.{key}": value for key, value in wanted.items()}
    return Case(text, {"optimizer.weight_decay": 0.01, **wanted}, {"optimizer_type": lost} if lost else {})


def _library(theirs: str, ours: str, lost: str = "", *arguments: str) -> Case:
    text = f'{_LORA}optimizer_type = "{theirs}"\noptimizer_args = ["weight_decay=0.01", "tomorrow=3"]\n'
    said = {"optimizer_args.tomorrow": "no argument tomorrow", **({"optimizer_type": lost} if lost else {})}
    return Case(text, {"optimizer.name": ours, "arguments": {"weight_decay=0.01", *arguments}}, said)


CASES: dict[str, Case] = {
    "adafactor_relative.toml": Case(
        f'{_LORA}optimizer_type = "Adafactor"\nunet_lr = 1.0\ntext_encoder_lr = 0.5\nlr_scheduler = "adafactor"\n',
        {"optimizer.name": "adafactor", "optimizer.lr": 1e-4, "optimizer.te1_lr": 5e-5},
        {"optimizer_args.relative_step": "its own steps", "learning_rate": "0.0001", "lr_scheduler": "constant"},
    ),
    "alpha_zero.toml": Case(f"{_LORA}network_alpha = 0\n", {"network.alpha": "dim"}),
    "bucket_step_1_gui.json": Case(
        f'{{"LoRA_type": "Standard", "network_dim": 8, "network_alpha": 8, "enable_bucket": true, {_GUI}, '
        '"bucket_reso_steps": 1, "epoch": 1}',
        {"dataset.bucket_step": 8, "run.epochs": 1},
        {"bucket_reso_steps": "8 px"},
    ),
    "came.toml": _library("pytorch_optimizer.CAME", "came"),
    "cosine_min_lr.toml": Case(
        f'{_LORA}max_train_steps = 1000\nlr_scheduler = "cosine_with_min_lr"\nlr_scheduler_min_lr_ratio = 0.1\n'
        "lr_warmup_steps = 100\n",
        {"optimizer.schedule": "cosine", "optimizer.min_lr_ratio": 0.1, "optimizer.warmup_steps": 100},
    ),
    "dylora.toml": Case(
        _LORA.replace("networks.lora", "networks.dylora") + 'network_args = ["unit=4"]\n',
        {"network.algo": "lora", "network.dim": 16},
        {"network_module": "DyLoRA", "network_args.unit": "DyLoRA"},
    ),
    "full_matrix.toml": Case(
        f'{_BASE}{_FOLDER}network_module = "lycoris.kohya"\nnetwork_dim = 999999\nnetwork_alpha = 1\n'
        'network_args = ["algo=lokr", "factor=8", "full_matrix=True"]\nlearning_rate = 1e-4\n',
        {"network.algo": "lokr", "network.factor": 8, "network.full_matrix": True},
        {"network_args.preset": "conv_in"},
    ),
    "gui_typical.json": Case(
        f'{{"LoRA_type": "Standard", "sdxl": true, "network_dim": 32, "network_alpha": 16, {_GUI}, "clip_skip": 1, '
        '"max_resolution": "1024,1024", "enable_bucket": true, "bucket_reso_steps": 64, "min_bucket_reso": 256, '
        '"max_bucket_reso": 2048, "text_encoder_lr": 5e-5, "optimizer": "AdamW8bit", "lr_scheduler": "cosine", '
        '"lr_warmup": 10, "epoch": 10, "train_batch_size": 2, "max_train_steps": 0, "max_train_epochs": 0, '
        '"noise_offset_type": "Original", "noise_offset": 0.0357, "min_snr_gamma": 5, "cache_latents": true, '
        '"cache_latents_to_disk": true, "gradient_checkpointing": true, "mixed_precision": "bf16", '
        '"save_precision": "fp16", "lr_scheduler_num_cycles": 1, "max_token_length": 150, "keep_tokens": 1, '
        '"shuffle_caption": true}',
        {
            "base.clip_skip": 0,
            "optimizer.warmup_ratio": 0.1,
            "optimizer.name": "adamw8bit",
            "run.epochs": 10,
            "dataset.resolution": 1024,
            "dataset.token_chunks": 2,
            "network.dim": 32,
            "loss.noise_offset": 0.0357,
        },
        {"clip_skip": "SDXL", "max_token_length": "web UIs"},
        family="sdxl",
    ),
    "lokr_full_dim.toml": Case(
        f'{_BASE}{_FOLDER}network_module = "lycoris.kohya"\nnetwork_dim = 100000\nnetwork_alpha = 1\n'
        'network_args = ["algo=lokr", "factor=4", "conv_dim=100000", "conv_alpha=1"]\nlearning_rate = 1e-4\n',
        {"network.algo": "lokr", "network.factor": 4, "network.full_matrix": True},
        {"network_args.preset": "conv_in"},
    ),
    "lora_fa.toml": Case(
        _LORA.replace("networks.lora", "networks.lora_fa"), {"network.algo": "lora"}, {"network_module": "LoRA-FA"}
    ),
    "lora_fa_etc.toml": Case(_LORA.replace("networks.lora", "networks.oft"), refused="kohya's own OFT"),
    "multires_dataset.toml": Case(
        '[general]\ncaption_extension = ".txt"\nenable_bucket = true\n[[datasets]]\nresolution = 512\nbatch_size = 4\n'
        '[[datasets.subsets]]\nimage_dir = "pics"\nnum_repeats = 2\n[[datasets]]\nresolution = 768\nbatch_size = 2\n'
        '[[datasets.subsets]]\nimage_dir = "pics"\nnum_repeats = 1\n',
        {
            "dataset.resolution": 512,
            "run.batch_size": 4,
            "dataset.bucket_max": 1024,
            "dataset.sources": [SourceConfig("pics", 2), SourceConfig("pics", 1, resolution=768)],
        },
        {"datasets[1].batch_size": "one for all datasets"},
    ),
    "network_args_string.toml": Case(
        f'{_BASE}{_FOLDER}network_module = "lycoris.kohya"\nnetwork_dim = 16\n'
        'network_args = "algo=locon conv_dim=8 conv_alpha=4"\nlearning_rate = 1e-4\n',
        {"network.algo": "lora", "network.conv_dim": 8, "network.conv_alpha": 4.0},
        {"network_args.preset": "conv_in"},
    ),
    "opt_AdamWScheduleFree.toml": _library("AdamWScheduleFree", "schedulefreeadamw"),
    "opt_DAdaptAdam.toml": _optimizer("DAdaptAdam", "D-Adaptation", name="prodigy", growth_rate=0.0),
    "opt_Lion8bit.toml": _optimizer("Lion8bit", "32 bits", name="lion"),
    "opt_PagedAdamW.toml": _optimizer("PagedAdamW", "paged", name="adamw"),
    "opt_RAdamScheduleFree.toml": _library("RAdamScheduleFree", "schedulefreeradam"),
    "opt_SGDNesterov.toml": _library("SGDNesterov", "sgd", "", "momentum=0.9", "nesterov=True"),
    "opt_AdEMAMix8bit.toml": _library("AdEMAMix8bit", "ademamix", "32 bits", "weight_decouple=True"),
    "opt_of_tomorrow.toml": _optimizer("some_package.Tomorrow", "not known", name="adamw"),
    "opt_prodigyplus.toml": _optimizer("prodigyplus.ProdigyPlusScheduleFree", name="prodigy-plus-schedule-free"),
    "optimizer_args_spaces.toml": Case(
        f'{_LORA}optimizer_type = "AdamW"\noptimizer_args = ["betas=(0.9, 0.95)", "weight_decay = 0.05"]\n',
        {"optimizer.betas": [0.9, 0.95], "optimizer.weight_decay": 0.05},
    ),
    "optimizer_args_one_text.toml": Case(
        f'{_LORA}optimizer_type = "AdamW"\noptimizer_args = "betas=(0.9, 0.95) weight_decay=0.05"\n',
        {"optimizer.betas": [0.9, 0.95], "optimizer.weight_decay": 0.05},
    ),
    "sdxl_clip_skip.toml": Case(
        f'{_LORA}clip_skip = 1\nresolution = "1024,1024"\n',
        {"base.clip_skip": 0, "dataset.resolution": 1024},
        {"clip_skip": "SDXL"},
        family="sdxl",
    ),
    "sdxl_clip_skip_gui.json": Case(
        f'{{"LoRA_type": "Standard", "sdxl": true, "clip_skip": 2, {_GUI}, "network_dim": 8, "network_alpha": 8, '
        '"text_encoder_lr": 5e-5, "optimizer": "AdamW", "max_resolution": "1024,1024", "epoch": 1}',
        {"base.clip_skip": 0, "optimizer.te1_lr": 5e-5},
        {"clip_skip": "SDXL"},
        family="sdxl",
    ),
    "ti_gui.json": Case(
        f'{{"token_string": "mytoken", "init_word": "cat", "num_vectors_per_token": 4, {_GUI}, "epoch": 4}}',
        refused="settings of a textual inversion",
    ),
    "vpred_debiased.toml": Case(
        f"{_LORA}v_parameterization = true\nzero_terminal_snr = true\ndebiased_estimation_loss = true\n",
        {"base.prediction": "v_prediction", "loss.debiased": True},
        {"zero_terminal_snr": "rescaled"},
        family="sdxl",
        v_prediction=True,
    ),
    "warmup_share_epochs.toml": Case(
        f'{_LORA}max_train_epochs = 10\nlr_scheduler = "cosine"\nlr_warmup_steps = 0.1\n',
        {"optimizer.warmup_ratio": 0.1, "run.epochs": 10},
    ),
    "easy_scripts.toml": Case(
        '[[subsets]]\nimage_dir = "pics"\nnum_repeats = 3\n[general_args.args]\nmax_train_epochs = 5\n'
        "[general_args.dataset_args]\nresolution = 512\n[network_args.args]\nnetwork_dim = 32\n"
        '[optimizer_args.args]\noptimizer_type = "AdamW8bit"\n',
        refused="a file of LoRA_Easy_Training_Scripts",
    ),
    "dreambooth_gui.json": Case(
        f'{{{_GUI}, "learning_rate_te": 1e-6, "epoch": 2, "max_resolution": "512,512"}}',
        refused="settings of a DreamBooth training",
    ),
    "finetune_gui.json": Case(
        f'{{{_GUI}, "image_folder": "pics", "train_text_encoder": true, "caption_metadata_filename": "m.json"}}',
        refused="settings of a fine-tuning",
    ),
    "onetrainer.json": Case('{"__version": 9, "training_method": "LORA"}', refused="settings of OneTrainer"),
    "ours.toml": Case("[base]\n[dataset]\n[network]\n[optimizer]\nlr = 1.0\n", refused="configuration of Adapter Lab"),
    "ai_toolkit.yaml": Case("job: extension\nconfig:\n  name: x\n", refused="YAML"),
    "nothing_known.toml": Case("colour = 3\n", refused="holds no setting of kohya's"),
    "flux.toml": Case(_LORA.replace("networks.lora", "networks.lora_flux"), refused="a LoRA for Flux"),
}
